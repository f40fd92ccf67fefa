package bindrule

import (
	"net/netip"
	"sync"

	"sockstate_exporter/internal/sock"
)

// A Folding says which sockets are the same to some expected requests. Any user can bind sockets to
// millions of addresses, and some to thousands of user ids. Most of them make no difference to the
// few addresses that a server uses. So the folded sockets of a port are few, whatever its users do,
// and the answers to the expected requests stay the same.
//
// A nil Folding expects nothing.
type Folding struct {
	all []Request

	// The same by address. Few ports need it: see byAddress.
	once      sync.Once
	wildcards []Request
	at        map[netip.Addr][]Request // by an address that is no wildcard
}

// NewFolding expects requests to these addresses, with these devices and user ids. Other fields are
// ignored.
func NewFolding(expected []Request) *Folding { return &Folding{all: expected} }

// byAddress sorts the expected requests once they are asked for. Most ports have too few sockets to be
// folded.
func (f *Folding) byAddress() (wildcards []Request, at map[netip.Addr][]Request) {
	f.once.Do(func() {
		f.at = make(map[netip.Addr][]Request)
		for _, r := range f.all {
			if addr := plainAddr(r.Addr); addr.IsUnspecified() {
				f.wildcards = append(f.wildcards, r)
			} else {
				f.at[addr] = append(f.at[addr], r)
			}
		}
	})
	return f.wildcards, f.at
}

func plainAddr(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// A Binding is what a socket is bound to, and whose it is.
type Binding struct {
	Addr      netip.Addr
	Elsewhere sock.Family // as in Socket
	Ifindex   uint32
	UID       uint32
}

// Fold replaces what no expected request can tell apart: the address by Elsewhere, a device by
// sock.OtherIfindex, and a user by sock.OtherUID.
func (f *Folding) Fold(b Binding) Binding {
	plain := plainAddr(b.Addr)
	some, more, expected := f.meeting(plain)
	if !expected {
		b.Addr, b.Elsewhere = netip.Addr{}, sock.FamilyOf(plain)
	}
	if !mayMatch(some, b.Ifindex, b.UID) && !mayMatch(more, b.Ifindex, b.UID) {
		b.UID = sock.OtherUID
	}
	if b.Ifindex != 0 && !names(some, b.Ifindex) && !names(more, b.Ifindex) {
		b.Ifindex = sock.OtherIfindex
	}
	return b
}

// FoldSocket does the same to a Socket.
func (f *Folding) FoldSocket(s Socket) Socket {
	b := f.Fold(Binding{Addr: s.Addr, Ifindex: s.Ifindex, UID: s.UID.ID})
	s.Addr, s.Elsewhere, s.Ifindex = b.Addr, b.Elsewhere, b.Ifindex
	if s.UID.Known {
		s.UID.ID = b.UID
	}
	return s
}

// meeting returns the expected requests that may conflict with a socket on the address: those to
// the address, and those to wildcards. A wildcard socket conflicts with requests to any address.
func (f *Folding) meeting(plain netip.Addr) (some, more []Request, expected bool) {
	switch {
	case f == nil:
		return nil, nil, plain.IsUnspecified()
	case plain.IsUnspecified():
		return f.all, nil, true
	}
	wildcards, at := f.byAddress()
	more, expected = at[plain]
	return wildcards, more, expected
}

func names(requests []Request, ifindex uint32) bool {
	for i := range requests {
		if requests[i].Ifindex == ifindex {
			return true
		}
	}
	return false
}

// mayMatch: a request of this user may meet the device.
func mayMatch(requests []Request, ifindex, uid uint32) bool {
	for i := range requests {
		r := &requests[i]
		if r.UID == UIDOf(uid) && (r.Ifindex == 0 || ifindex == 0 || r.Ifindex == ifindex) {
			return true
		}
	}
	return false
}

// expects says whether folded sockets answer the request as the sockets themselves do.
func (f *Folding) expects(r *Request) bool {
	if f == nil {
		return false
	}
	expected, at := f.byAddress()
	if addr := plainAddr(r.Addr); !addr.IsUnspecified() {
		expected = at[addr]
	}
	for i := range expected {
		e := &expected[i]
		if e.Ifindex == r.Ifindex && (e.UID == r.UID || r.ReusePort == No || !r.UID.Known) {
			return true
		}
	}
	return false
}
