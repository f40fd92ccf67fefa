package httplimit

import (
	"container/list"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"time"
)

// sendBuffer bounds what the kernel holds of an answer that a client does not read. By itself it
// would take megabytes.
const sendBuffer = 64 << 10

// Connections bound the open connections of a server. One connection more closes another: of the
// client that has most, the one that has been without a request for longest.
type Connections struct {
	most int

	mu   sync.Mutex
	open map[net.Conn]*connection
	of   share
	// Connections without a request that is being served. Those that changed last are last.
	waiting *list.List
}

type connection struct {
	conn    net.Conn
	client  string
	serving int           // requests; HTTP/2 has several at a time
	waiting *list.Element // nil while it serves one
}

// NewConnections bounds the connections to most.
func NewConnections(most int) *Connections {
	return &Connections{most: most, open: make(map[net.Conn]*connection), of: make(share), waiting: list.New()}
}

type connKey struct{}

// Bound makes the server keep to the bound. The server's Handler must be set, and its ConnState
// and ConnContext must not be in use.
func (c *Connections) Bound(server *http.Server) {
	next := server.Handler
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer c.serving(connOf(r.Context()))()
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(readTime))
		next.ServeHTTP(w, r)
	})
	server.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		return context.WithValue(ctx, connKey{}, conn)
	}
	server.ConnState = c.changed
}

func connOf(ctx context.Context) net.Conn {
	conn, _ := ctx.Value(connKey{}).(net.Conn)
	return conn
}

func (c *Connections) changed(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		bounded(conn)
		if excess := c.add(conn); excess != nil {
			cut(excess)
		}
	case http.StateClosed, http.StateHijacked:
		c.mu.Lock()
		defer c.mu.Unlock()
		c.remove(c.open[conn])
	case http.StateActive, http.StateIdle:
		c.mu.Lock()
		defer c.mu.Unlock()
		if of := c.open[conn]; of != nil && of.waiting != nil {
			c.waiting.MoveToBack(of.waiting)
		}
	}
}

// add returns a connection that must be closed, if there are too many.
func (c *Connections) add(conn net.Conn) (excess net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	of := &connection{conn: conn, client: clientOf(conn.RemoteAddr().String())}
	of.waiting = c.waiting.PushBack(of)
	c.open[conn] = of
	c.of.add(of.client)
	if len(c.open) <= c.most {
		return nil
	}
	out := of
	most := c.of.most()
	if c.of[most] == c.of[of.client] {
		most = of.client
	}
	for e := c.waiting.Front(); e != nil; e = e.Next() {
		if of, ok := e.Value.(*connection); ok && of.client == most {
			out = of
			break
		}
	}
	c.remove(out)
	return out.conn
}

func (c *Connections) remove(of *connection) {
	if of == nil || c.open[of.conn] == nil {
		return
	}
	delete(c.open, of.conn)
	c.of.remove(of.client)
	if of.waiting != nil {
		c.waiting.Remove(of.waiting)
		of.waiting = nil
	}
}

// serving keeps a connection from being closed until the returned function is called.
func (c *Connections) serving(conn net.Conn) (done func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	of := c.open[conn]
	if of == nil {
		return func() {}
	}
	of.serving++
	if of.waiting != nil {
		c.waiting.Remove(of.waiting)
		of.waiting = nil
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if of.serving--; of.serving == 0 && c.open[conn] != nil {
			of.waiting = c.waiting.PushBack(of)
		}
	}
}

// cut closes a connection at once. What the client has not read is dropped.
func cut(conn net.Conn) {
	// Without this the close of a TLS connection waits until the client reads.
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

func bounded(conn net.Conn) {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetWriteBuffer(sendBuffer)
	}
}
