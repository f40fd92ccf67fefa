package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"syscall"
)

// A server accepts connections and does nothing with them.
type server struct {
	listener net.Listener
	conns    []net.Conn
	clients  []net.Conn
}

// serve listens on the port, with SO_REUSEADDR or not.
func serve(ctx context.Context, port int, reuseAddr bool) (*server, error) {
	on := 0
	if reuseAddr {
		on = 1
	}
	// net sets the option by itself, unlike most languages' libraries.
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		if ctlErr := raw.Control(func(fd uintptr) {
			err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, on)
		}); ctlErr != nil {
			return ctlErr
		}
		return err
	}}
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(ctx, "tcp4", fmt.Sprintf("0.0.0.0:%d", port))
	if err != nil {
		return nil, err
	}
	return &server{listener: l}, nil
}

// connect brings n clients.
func (s *server) connect(ctx context.Context, n int) error {
	_, port, err := net.SplitHostPort(s.listener.Addr().String())
	if err != nil {
		return err
	}
	for range n {
		client, err := new(net.Dialer).DialContext(ctx, "tcp4", "127.0.0.1:"+port)
		if err != nil {
			return err
		}
		s.clients = append(s.clients, client)
		conn, err := s.listener.Accept()
		if err != nil {
			return err
		}
		s.conns = append(s.conns, conn)
	}
	return nil
}

// stop ends the server as the end of its process would: it closes first, and so is the side
// that keeps the connections in TIME_WAIT.
func (s *server) stop() {
	_ = s.listener.Close()
	for i, conn := range s.conns {
		_ = conn.Close()
		_, _ = io.Copy(io.Discard, s.clients[i])
		_ = s.clients[i].Close()
	}
}
