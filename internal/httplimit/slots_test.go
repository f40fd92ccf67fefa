package httplimit

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A desk is a handler whose requests wait until they are released or cut.
type desk struct {
	slots   *Slots
	handler http.Handler

	mu  sync.Mutex
	cut map[string]int // by client
}

func newDesk(most int, sending bool, release chan struct{}) *desk {
	d := &desk{slots: NewSlots(most, "full"), cut: make(map[string]int)}
	d.handler = d.slots.Limit(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if sending {
			sends(r)
		}
		select {
		case <-release:
		case <-r.Context().Done():
			if errors.Is(context.Cause(r.Context()), errCut) {
				d.mu.Lock()
				defer d.mu.Unlock()
				d.cut[r.RemoteAddr]++
			}
		}
	}))
	return d
}

// ask sends a request that may wait. refused is called if it is refused.
func (d *desk) ask(t *testing.T, remote string) (refused func() bool) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody)
	r.RemoteAddr = remote
	w := httptest.NewRecorder()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		d.handler.ServeHTTP(w, r)
	}()
	return func() bool {
		synctest.Wait()
		select {
		case <-ended:
			return w.Code == http.StatusServiceUnavailable
		default:
			return false
		}
	}
}

const (
	crowd = "192.0.2.9:1"
	guest = "192.0.2.1:1"
)

func TestClientWithManyRequestsGivesWayToOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		d := newDesk(10, false, release)
		for range 10 {
			if d.ask(t, crowd)() {
				t.Fatal("refused within the limit")
			}
		}
		if !d.ask(t, crowd)() {
			t.Error("the eleventh request of one client is not refused")
		}
		for n := range 5 {
			if d.ask(t, guest)() {
				t.Errorf("request %d of another client is refused", n+1)
			}
		}
		if !d.ask(t, guest)() {
			t.Error("a request beyond the half is not refused")
		}
		if d.cut[crowd] != 5 || d.cut[guest] != 0 {
			t.Errorf("cut: %v, want 5 of the crowd", d.cut)
		}
		close(release)
		synctest.Wait()
		if len(d.slots.taken) != 0 || len(d.slots.of) != 0 {
			t.Errorf("%d slots of %d clients are taken, want none", len(d.slots.taken), len(d.slots.of))
		}
	})
}

func TestRequestThatDoesNotReadGivesWayToAnybody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		defer close(release)
		d := newDesk(3, true, release)
		for range 3 {
			d.ask(t, crowd)
		}
		synctest.Wait()
		time.Sleep(slowTime)
		if !d.ask(t, crowd)() {
			t.Error("a request is not refused while others read their answers")
		}
		time.Sleep(time.Millisecond)
		for range 3 {
			if d.ask(t, crowd)() {
				t.Error("a request is refused while others do not read")
			}
		}
		if !d.ask(t, crowd)() {
			t.Error("a request is not refused, though the slow ones are gone")
		}
	})
}

func TestRequestThatIsSlowToAnswerKeepsItsSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		defer close(release)
		d := newDesk(1, false, release)
		d.ask(t, crowd)
		synctest.Wait()
		time.Sleep(time.Hour)
		for _, remote := range []string{crowd, guest} {
			if !d.ask(t, remote)() {
				t.Errorf("a request of %s is not refused", remote)
			}
		}
	})
}

func TestSlotIsFreeAfterTheRequest(t *testing.T) {
	d := newDesk(1, false, nil)
	for range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		w := httptest.NewRecorder()
		d.handler.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/", http.NoBody))
		if w.Code != http.StatusOK {
			t.Errorf("status %d, want 200", w.Code)
		}
	}
}

func TestRefusalSaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		defer close(release)
		d := newDesk(1, false, release)
		d.ask(t, crowd)
		synctest.Wait()
		w := httptest.NewRecorder()
		d.handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody))
		if w.Code != http.StatusServiceUnavailable || w.Body.String() != "full\n" {
			t.Errorf("status %d, %q", w.Code, w.Body)
		}
	})
}
