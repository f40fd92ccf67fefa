package unixwatch

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"sockstate_exporter/internal/share"
	"sockstate_exporter/internal/unixsock"
	"sockstate_exporter/internal/unixsock/unixlook"
)

// MaxPaths is how many paths are watched.
const MaxPaths = 256

const (
	userShare    = 4   // one user may have a quarter of what patterns find
	maxSystemUID = 999 // those up to it have no share

	// A path of a user counts in their share for so long. A process can choose names, and each makes
	// series of its own, which cost Prometheus memory also when they are gone.
	keepShare = time.Hour
)

// Config says what is watched.
type Config struct {
	Specs     []Spec
	Look      func(context.Context, []unixlook.Query) ([]unixsock.Verdict, error)
	Retention time.Duration // how long a path that a pattern has found stays
}

// A Watcher watches paths. Its methods may be called from any goroutine.
type Watcher struct {
	cfg    Config
	search *search

	mu    sync.Mutex
	known map[unixsock.Name]*known
}

// A known is a path that is watched.
type known struct {
	named bool      // by a Spec
	uid   uint32    // of the file's owner
	last  time.Time // when the file was there, or a server listened
	names share.Names

	shadowed, unlinked bool // as Path has them
}

// State is what is at the watched paths.
type State struct {
	Paths   []Path // sorted by name
	Dropped int    // paths that are not watched because there are too many
	Err     error  // nil where all was seen
	Took    time.Duration
}

// A Path is a watched one.
type Path struct {
	unixsock.Verdict

	// Shadowed and Unlinked say that servers were cut off from the path in these ways, now or before.
	Shadowed, Unlinked bool
}

// New returns a Watcher.
func New(cfg Config) *Watcher {
	w := &Watcher{cfg: cfg, search: newSearch(cfg.Specs), known: make(map[unixsock.Name]*known)}
	for _, s := range cfg.Specs {
		if s.pattern == "" && len(w.known) < MaxPaths {
			w.known[s.name] = &known{named: true}
		}
	}
	return w
}

// TooMany returns how many of the specs that are no patterns are beyond MaxPaths.
func TooMany(specs []Spec) int {
	names := make(map[unixsock.Name]bool)
	for _, s := range specs {
		if s.pattern == "" {
			names[s.name] = true
		}
	}
	return max(len(names)-MaxPaths, 0)
}

// Take looks at all paths.
func (w *Watcher) Take(ctx context.Context) State {
	w.mu.Lock()
	defer w.mu.Unlock()
	began := time.Now()
	s := State{Dropped: w.find(began, w.search.run(ctx))}
	names := make([]unixsock.Name, 0, len(w.known))
	for name, k := range w.known {
		if k.named || began.Sub(k.last) <= w.cfg.Retention {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b unixsock.Name) int { return cmp.Compare(a.String(), b.String()) })
	queries := make([]unixlook.Query, len(names))
	for i, name := range names {
		queries[i].Name = name
	}
	verdicts, err := w.cfg.Look(ctx, queries)
	if err == nil {
		err = context.Cause(ctx)
	}
	s.Err, s.Took = err, time.Since(began)
	if err != nil {
		return s
	}
	for i := range verdicts {
		s.Paths = append(s.Paths, w.note(names[i], &verdicts[i], began))
	}
	return s
}

// find watches what the patterns have found, and gives up paths that are gone.
func (w *Watcher) find(now time.Time, sockets []found) (dropped int) {
	for name, k := range w.known {
		keep := w.cfg.Retention
		if k.uid > maxSystemUID {
			keep = max(keep, keepShare)
		}
		if !k.named && now.Sub(k.last) > keep {
			delete(w.known, name)
		}
	}
	shares := make(map[uint32]int)
	for _, k := range w.known {
		shares[k.uid]++
	}
	for _, f := range sockets {
		name := unixsock.Name{Path: f.path}
		if k, ok := w.known[name]; ok {
			k.last = now
			continue
		}
		if len(w.known) >= MaxPaths || f.uid > maxSystemUID && shares[f.uid] >= MaxPaths/userShare {
			dropped++
			continue
		}
		shares[f.uid]++
		w.known[name] = &known{uid: f.uid, last: now}
	}
	return dropped
}

// note remembers what was seen of a path.
func (w *Watcher) note(name unixsock.Name, v *unixsock.Verdict, now time.Time) Path {
	k := w.known[name]
	for _, sockets := range [][]unixsock.Socket{v.Holders, v.CutOff} {
		for i := range sockets {
			s := &sockets[i]
			k.last = now
			s.Owner.Many = k.names.Add(now, s.UID, s.Owner.Process, s.Owner.Place())
		}
	}
	if len(v.CutOff) > 0 {
		k.shadowed = k.shadowed || len(v.Holders) > 0
		k.unlinked = k.unlinked || len(v.Holders) == 0
	}
	return Path{Verdict: *v, Shadowed: k.shadowed, Unlinked: k.unlinked}
}
