package unixwatch

import (
	"context"
	"slices"
	"time"
)

// searchWait is how long the directories of all patterns may take.
const searchWait = 2 * time.Second

// A search looks for sockets by patterns. A directory of a file system that does not answer (NFS, FUSE) keeps
// one goroutine, and until it answers, no pattern finds anything new. Only one call at a time may run it.
type search struct {
	patterns []string
	glob     func(pattern string) []found
	running  chan []found // nil: none runs
	last     []found
}

func newSearch(specs []Spec) *search {
	s := &search{glob: glob}
	for _, spec := range specs {
		if spec.pattern != "" && !slices.Contains(s.patterns, spec.pattern) {
			s.patterns = append(s.patterns, spec.pattern)
		}
	}
	return s
}

// run returns what the patterns find now, or what they found when the file systems last answered.
func (s *search) run(ctx context.Context) []found {
	if len(s.patterns) == 0 {
		return nil
	}
	if s.running != nil { // from an earlier call, which has waited long enough
		select {
		case s.last = <-s.running:
		default:
			return s.last
		}
	}
	done := make(chan []found, 1)
	s.running = done
	go func() {
		var out []found
		for _, pattern := range s.patterns {
			out = append(out, s.glob(pattern)...)
		}
		done <- out
	}()
	over := time.NewTimer(searchWait)
	defer over.Stop()
	select {
	case s.last = <-done:
		s.running = nil
	case <-over.C:
	case <-ctx.Done():
	}
	return s.last
}
