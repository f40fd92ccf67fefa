package httplimit

import (
	"errors"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"
)

func ok(http.ResponseWriter, *http.Request) {}

// isOpen says whether the server has not closed the connection within a moment.
func isOpen(t *testing.T, conn net.Conn, moment time.Duration) bool {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(moment)); err != nil {
		t.Fatal(err)
	}
	_, err := conn.Read(make([]byte, 1))
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return true
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return false
	}
	t.Fatalf("read: %v", err)
	return false
}

const (
	patience = time.Minute            // for what must happen
	moment   = 100 * time.Millisecond // for what must not
)

func TestIdleConnectionsOfOneClientKeepNobodyOut(t *testing.T) {
	const most = 20
	for _, tt := range []struct{ name, say string }{
		{"nothing sent", ""},
		{"half a request", "GET / HTT"},
		{"a request answered", "GET / HTTP/1.1\r\nHost: x\r\n\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t, most, http.HandlerFunc(ok))
			scraper := s.dial(t, there) // the oldest, but its client has one only
			var idle []net.Conn
			for range 3 * most {
				conn := s.dial(t, here)
				if _, err := io.WriteString(conn, tt.say); err != nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
					t.Fatal(err)
				}
				idle = append(idle, conn)
			}
			for _, address := range []string{there, here} {
				if status, err := s.get(t.Context(), address); err != nil || status != http.StatusOK {
					t.Errorf("a new connection to %s beside them: status %d, %v", address, status, err)
				}
			}
			if !isOpen(t, scraper, moment) {
				t.Error("the connection of a client with one connection was closed")
			}
			for _, conn := range idle[:2*most] {
				_ = conn.SetReadDeadline(time.Now().Add(patience))
				if _, err := io.Copy(io.Discard, conn); errors.Is(err, errTimeout(err)) {
					t.Fatal("an idle connection beyond the bound is still open")
				}
			}
		})
	}
}

// errTimeout is err if that is a timeout.
func errTimeout(err error) error {
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return err
	}
	return errors.New("no timeout")
}

func TestConnectionWithARequestIsNotClosedForAnother(t *testing.T) {
	entered, release := make(chan struct{}, 1), make(chan struct{})
	s := newSite(t, 2, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			entered <- struct{}{}
			<-release
		}
	}))
	slow := s.dial(t, here)
	if _, err := io.WriteString(slow, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-entered
	for range 5 {
		s.dial(t, here)
	}
	if status, err := s.get(t.Context(), here); err != nil || status != http.StatusOK {
		t.Errorf("a new connection: status %d, %v", status, err)
	}
	if !isOpen(t, slow, moment) {
		t.Error("the connection with a request was closed")
	}
	close(release)
	if err := slow.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, len("HTTP/1.1 200"))
	if _, err := io.ReadFull(slow, answer); err != nil || string(answer) != "HTTP/1.1 200" {
		t.Errorf("answer %q, %v", answer, err)
	}
}

func TestConnectionsThatEndAreForgotten(t *testing.T) {
	server := &http.Server{Handler: http.HandlerFunc(ok)}
	c := NewConnections(10)
	c.Bound(server)
	for range 100 {
		near, far := net.Pipe()
		c.changed(near, http.StateNew)
		done := c.serving(near)
		c.changed(near, http.StateActive)
		c.changed(near, http.StateClosed)
		done()
		near.Close()
		far.Close()
	}
	if len(c.open) != 0 || len(c.of) != 0 || c.waiting.Len() != 0 {
		t.Errorf("%d connections, %d clients and %d waiting are left, want none", len(c.open), len(c.of), c.waiting.Len())
	}
}
