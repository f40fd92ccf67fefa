package collector

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/klauspost/compress/gzip"
)

func TestAnswerIsCompressedForWhoTakesIt(t *testing.T) {
	h := constant(wholeSnapshot(t)).handler(new(logbook))
	for _, tt := range []struct {
		accept string
		zipped bool
	}{
		{"gzip", true}, {"deflate, GZIP", true}, {"br;q=1.0, gzip;q=0.5", true}, {"gzip; q=1", true},
		{"", false}, {"identity", false}, {"gzip;q=0", false}, {"gzip; q=0.000", false}, {"xgzip, br", false},
	} {
		t.Run(tt.accept, func(t *testing.T) {
			res := get(t, h, "Accept-Encoding", tt.accept)
			defer res.Body.Close()
			if got := res.Header.Get("Content-Encoding") == "gzip"; got != tt.zipped {
				t.Fatalf("compressed: %v, want %v", got, tt.zipped)
			}
			if got := res.Header.Get("Vary"); got != "Accept-Encoding" {
				t.Errorf("Vary %q, want Accept-Encoding", got)
			}
			var body io.Reader = res.Body
			if tt.zipped {
				var err error
				if body, err = gzip.NewReader(res.Body); err != nil {
					t.Fatal(err)
				}
			}
			text, err := io.ReadAll(body)
			if err != nil || !strings.Contains(string(text), "\nsockstate_watched_ports ") {
				t.Errorf("error %v, answer\n%s", err, text)
			}
		})
	}
}

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

func TestErrorsKeepTheirStatus(t *testing.T) {
	h := rendered(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no", http.StatusTeapot)
	}))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody))
	if w.Code != http.StatusTeapot || w.Body.String() != "no\n" {
		t.Errorf("status %d, %q; want %d, %q", w.Code, w.Body, http.StatusTeapot, "no\n")
	}
}
