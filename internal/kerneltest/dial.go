package kerneltest

import (
	"context"
	"net"
)

// DialContext connects inside the namespace, as [net.Dialer.DialContext] does.
// It is for an [net/http.Transport], and for literal addresses: names are
// looked up, and tried side by side, on threads outside.
func (n *NetNS) DialContext(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	err = n.Run(func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}
