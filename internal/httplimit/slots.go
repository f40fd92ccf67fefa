package httplimit

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Slots bound how many requests are served at a time. If none is free, a request gets the slot of
//   - a request whose client does not read the answer, or
//   - the oldest request of the client that has most slots, if that is more than its own client
//     would have then.
//
// The connection of the request that loses its slot is closed. If there is no such request, the
// new one is refused with 503.
type Slots struct {
	most    int
	refusal string

	mu    sync.Mutex
	taken []*slot // in the order of the requests
	of    share
}

type slot struct {
	client  string
	conn    net.Conn // nil in tests
	cancel  context.CancelCauseFunc
	sending time.Time // since when the answer is sent; zero: it is being made
}

// slowTime is how long a client may take to read an answer while others wait for its slot. Others
// take some milliseconds.
const slowTime = time.Second

// errCut is why a request is not served any more.
var errCut = errors.New("another client needed the place of this request")

// NewSlots bounds the requests to most; 0 means no bound. The answer of those that are refused has
// the text.
func NewSlots(most int, refusal string) *Slots {
	return &Slots{most: most, refusal: refusal, of: make(share)}
}

type slotKey struct{}

// Limit serves requests that have a slot.
func (s *Slots) Limit(next http.Handler) http.Handler {
	if s.most == 0 {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancelCause(r.Context())
		defer cancel(nil)
		mine := &slot{client: clientOf(r.RemoteAddr), conn: connOf(ctx), cancel: cancel}
		if !s.take(mine) {
			http.Error(w, s.refusal, http.StatusServiceUnavailable)
			return
		}
		defer s.free(mine)
		began := func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			mine.sending = time.Now()
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(ctx, slotKey{}, began)))
	})
}

func (s *Slots) take(mine *slot) bool {
	s.mu.Lock()
	var loser *slot
	if len(s.taken) == s.most {
		if loser = s.loser(mine.client); loser == nil {
			s.mu.Unlock()
			return false
		}
		s.remove(loser)
	}
	s.taken = append(s.taken, mine)
	s.of.add(mine.client)
	s.mu.Unlock()
	if loser != nil {
		loser.cancel(errCut)
		if loser.conn != nil {
			cut(loser.conn)
		}
	}
	return true
}

// loser is the slot that gives way to a request of the client; nil: none does.
func (s *Slots) loser(client string) *slot {
	slow := slices.IndexFunc(s.taken, func(t *slot) bool {
		return !t.sending.IsZero() && time.Since(t.sending) > slowTime
	})
	if slow >= 0 {
		return s.taken[slow]
	}
	most := s.of.most()
	if s.of[most] <= s.of[client]+1 {
		return nil
	}
	return s.taken[slices.IndexFunc(s.taken, func(t *slot) bool { return t.client == most })]
}

func (s *Slots) free(mine *slot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(mine)
}

// remove does nothing if the slot was lost.
func (s *Slots) remove(t *slot) {
	i := slices.Index(s.taken, t)
	if i < 0 {
		return
	}
	s.taken = slices.Delete(s.taken, i, i+1)
	s.of.remove(t.client)
}

// sends notes that the answer of the request is being sent from now on.
func sends(r *http.Request) {
	if began, ok := r.Context().Value(slotKey{}).(func()); ok {
		began()
	}
}
