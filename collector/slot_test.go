package collector

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"

	"sockstate_exporter/internal/metric"
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

func TestClientThatLeavesWhileItWaitsTakesNoSink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := metric.NewSinks(maxRendered)
		var used []*metric.Sink
		for range maxRendered {
			s, err := all.Take(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			used = append(used, s)
		}
		ctx, cancel := context.WithCancel(t.Context())
		taken := make(chan error, 1)
		go func() {
			_, err := all.Take(ctx)
			taken <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-taken; err != context.Canceled {
			t.Errorf("error %v, want %v", err, context.Canceled)
		}
		for _, s := range used {
			all.Free(s)
		}
		if len(all) != maxRendered {
			t.Errorf("%d sinks are free, want %d", len(all), maxRendered)
		}
	})
}

// A sink does not keep the memory of the largest answer.
func TestSinkOfALargeAnswerIsNotKept(t *testing.T) {
	all := metric.NewSinks(maxRendered)
	large, err := all.Take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m := metric.Gauge("large", "Large.", "label")
	for large.Size() <= metric.MaxKept {
		large.Put(m, 1, "value")
	}
	all.Free(large)
	for range maxRendered {
		if s, err := all.Take(t.Context()); err != nil || s.Size() > metric.MaxKept {
			t.Errorf("a sink keeps %d bytes, error %v", s.Size(), err)
		}
	}
}
