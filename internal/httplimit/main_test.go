package httplimit

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"testing"

	"sockstate_exporter/internal/kerneltest"
)

func TestMain(m *testing.M) { kerneltest.Main(m) }

// Addresses of the server. A client that connects to one comes from the same one.
const (
	here  = "127.0.0.1:80"
	there = "192.0.2.1:80"
)

// A site is a server with at most some connections, in a namespace of its own.
type site struct {
	ns     *kerneltest.NetNS
	server *http.Server
}

func newSite(t *testing.T, connections int, handler http.Handler) *site {
	t.Helper()
	s := &site{kerneltest.New(t), &http.Server{Handler: handler}}
	s.ns.AddDummy(t, "there0", netip.MustParsePrefix("192.0.2.1/32"))
	NewConnections(connections).Bound(s.server)
	var listener net.Listener
	s.ns.Do(t, func() {
		var err error
		if listener, err = new(net.ListenConfig).Listen(t.Context(), "tcp4", "0.0.0.0:80"); err != nil {
			t.Fatal(err)
		}
	})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = s.server.Serve(listener)
	}()
	t.Cleanup(func() {
		_ = s.server.Close()
		<-ended
	})
	return s
}

func (s *site) dial(t *testing.T, address string) net.Conn {
	t.Helper()
	conn, err := s.ns.DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// get asks on a connection of its own.
func (s *site) get(ctx context.Context, address string) (status int, err error) {
	transport := &http.Transport{DialContext: s.ns.DialContext, DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address, http.NoBody)
	if err != nil {
		return 0, err
	}
	res, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		return 0, err
	}
	return res.StatusCode, res.Body.Close()
}
