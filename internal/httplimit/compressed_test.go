package httplimit

import (
	"crypto/rand"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
)

const text = "some text"

func says(text string) http.Handler {
	return Compressed(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, text)
	}))
}

func TestAnswerIsCompressedForWhoTakesIt(t *testing.T) {
	for _, tt := range []struct {
		accept string
		zipped bool
	}{
		{"gzip", true}, {"deflate, GZIP", true}, {"br;q=1.0, gzip;q=0.5", true}, {"gzip; q=1", true},
		{"", false}, {"identity", false}, {"gzip;q=0", false}, {"gzip; q=0.000", false}, {"xgzip, br", false},
	} {
		t.Run(tt.accept, func(t *testing.T) {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody)
			r.Header.Set("Accept-Encoding", tt.accept)
			w := httptest.NewRecorder()
			says(text).ServeHTTP(w, r)
			res := w.Result()
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
			if got, err := io.ReadAll(body); err != nil || string(got) != text {
				t.Errorf("error %v, answer %q", err, got)
			}
		})
	}
}

// A deadlineWriter notes its deadline.
type deadlineWriter struct {
	*httptest.ResponseRecorder
	deadline time.Time
}

func (w *deadlineWriter) SetWriteDeadline(at time.Time) error {
	w.deadline = at
	return nil
}

// HTTP/2 resets a stream whose deadline passes, even where nothing was to be sent yet.
func TestAnswerMayTakeLongerThanItsReader(t *testing.T) {
	w := &deadlineWriter{ResponseRecorder: httptest.NewRecorder(), deadline: time.Now().Add(readTime)}
	Compressed(http.HandlerFunc(func(a http.ResponseWriter, _ *http.Request) {
		if !w.deadline.IsZero() {
			t.Error("a deadline runs while the answer is made")
		}
		_, _ = io.WriteString(a, text)
	})).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody))
	if w.deadline.IsZero() {
		t.Error("no deadline for sending it")
	}
}

func TestErrorsKeepTheirStatus(t *testing.T) {
	h := Compressed(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no", http.StatusTeapot)
	}))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody))
	if w.Code != http.StatusTeapot || w.Body.String() != "no\n" {
		t.Errorf("status %d, %q; want %d, %q", w.Code, w.Body, http.StatusTeapot, "no\n")
	}
}

// noise is text that no buffer of the kernel holds, however well it is compressed.
func noise(t *testing.T) string {
	t.Helper()
	b := make([]byte, 32<<20)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// asks sends a request and does not read the answer.
func (s *site) asks(t *testing.T, address string) net.Conn {
	t.Helper()
	conn := s.dial(t, address)
	if tcp, ok := conn.(*net.TCPConn); ok {
		if err := tcp.SetReadBuffer(4096); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	return conn
}

// gone waits until the server has closed the connection. It reads nothing before.
func gone(t *testing.T, conn net.Conn) time.Duration {
	t.Helper()
	for start := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		if _, err := conn.Write([]byte("x")); err != nil {
			return time.Since(start)
		}
		if time.Since(start) > patience {
			t.Fatalf("the connection is open after %v", patience)
		}
	}
}

func TestClientsThatDoNotReadLeaveTheirSlotsToOthers(t *testing.T) {
	slots := NewSlots(4, "full")
	answer := noise(t)
	s := newSite(t, 100, slots.Limit(Compressed(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("User-Agent") == "" { // the slow ones
			_, _ = io.WriteString(w, answer)
		}
	}))))
	var slow []net.Conn
	for range 4 {
		slow = append(slow, s.asks(t, here))
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if status, err := s.get(t.Context(), there); err == nil && status == http.StatusOK {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("another client was never served")
		}
	}
	// Of their own client as well: one of them is cut, and later another.
	for n := range 4 {
		for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
			if status, err := s.get(t.Context(), here); err == nil && status == http.StatusOK {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("request %d of the same client was never served", n)
			}
		}
	}
	for _, conn := range slow {
		conn.Close()
	}
}

func TestClientThatDoesNotReadIsGivenUp(t *testing.T) {
	s := newSite(t, 100, says(noise(t)))
	start := time.Now()
	gone(t, s.asks(t, here))
	if took := time.Since(start); took < readTime-time.Second {
		t.Errorf("given up after %v, want %v", took, readTime)
	}
}

func TestClientThatReadsGetsAllOfIt(t *testing.T) {
	answer := strings.Repeat(text, 1<<20)
	s := newSite(t, 100, says(answer))
	client := &http.Client{Transport: &http.Transport{DialContext: s.ns.DialContext}}
	defer client.CloseIdleConnections()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+here, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got, err := io.ReadAll(res.Body); err != nil || string(got) != answer {
		t.Errorf("%d bytes, %v; want %d", len(got), err, len(answer))
	}
}
