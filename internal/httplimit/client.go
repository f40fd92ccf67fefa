package httplimit

import "net/netip"

// clientOf names the client of a remote address. Addresses that one client can choose freely are
// one client: all of loopback, and an IPv6 network of 64 bits.
func clientOf(remote string) string {
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return remote // such as vsock
	}
	switch addr := at.Addr().Unmap().WithZone(""); {
	case addr.IsLoopback():
		return "loopback"
	case addr.Is6():
		network, _ := addr.Prefix(64) // 64 is in range
		return network.String()
	default:
		return addr.String()
	}
}

// share counts what each client has.
type share map[string]int

func (s share) add(client string) { s[client]++ }

func (s share) remove(client string) {
	if s[client]--; s[client] == 0 {
		delete(s, client)
	}
}

// most is a client that has most.
func (s share) most() (client string) {
	for c, n := range s {
		if n > s[client] {
			client = c
		}
	}
	return client
}
