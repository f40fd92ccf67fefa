package kerneltest

import (
	"context"
	"net"
)

// DialContext connects in the namespace, as [net.Dialer.DialContext] does. It
// fits [net/http.Transport]. The address must be literal: the net package looks
// up names on threads that are not in the namespace.
func (n *NetNS) DialContext(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	err = n.Run(func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}
