package collector

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
)

// Clients that never read keep their answers, but no slots from others.
func TestOnlySomeAnswersAreMadeAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := constant(wholeSnapshot(t)).handler(new(logbook))
		release := make(chan struct{})
		for range 3 * maxRendered {
			go h.ServeHTTP(&stuckWriter{header: make(http.Header), release: release}, request(t.Context(), t))
		}
		synctest.Wait()
		res := get(t, h, "Accept", "text/plain")
		res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Errorf("status %s beside clients that do not read, want 200", res.Status)
		}
		close(release)
	})
}

// A stuckWriter takes nothing until it is released.
type stuckWriter struct {
	header  http.Header
	release chan struct{}
}

func (w *stuckWriter) Header() http.Header { return w.header }
func (*stuckWriter) WriteHeader(int)       {}
func (w *stuckWriter) Write(p []byte) (int, error) {
	<-w.release
	return len(p), nil
}

func TestClientThatLeavesWhileItWaitsTakesNoSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slots := make(chan struct{}, 1)
		first, second := &slot{slots: slots, client: t.Context()}, new(slot)
		if err := first.take(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		second.slots, second.client = slots, ctx
		taken := make(chan error, 1)
		go func() { taken <- second.take() }()
		synctest.Wait()
		cancel()
		if err := <-taken; err != context.Canceled {
			t.Errorf("error %v, want %v", err, context.Canceled)
		}
		second.free()
		first.free()
		if len(slots) != 0 {
			t.Errorf("%d slots are taken, want 0", len(slots))
		}
	})
}
