package inspect

import (
	"context"
	"net/netip"

	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/netlinkdiag"
)

// A Sample is some of the sockets that have the local ports of clients.
type Sample struct {
	Inodes   []uint32 // of those that a process may have open
	TimeWait int      // those that nobody has open any more
	Looked   int      // all of them
}

// sampleSize is how many sockets a Sample has at most.
const sampleSize = 64

// LocalPorts takes a Sample of the sockets on the ports of a range, where to is valid of those that are
// connected to it.
func LocalPorts(ctx context.Context, ns probe.Namespace, of sock.PortRange, to netip.AddrPort) (Sample, error) {
	v := sampler{of: of, to: to}
	req := netlinkdiag.Request{States: netlinkdiag.AllStates.Without(sock.StateListen)}
	req.Ports.Local = append(req.Ports.Local, of)
	if err := ns.Sockets(ctx, req, &v); err != nil {
		return Sample{}, err
	}
	s := Sample{Looked: len(v.inodes)}
	for _, inode := range v.inodes {
		if inode == 0 {
			s.TimeWait++
		} else {
			s.Inodes = append(s.Inodes, inode)
		}
	}
	return s, nil
}

// A sampler keeps each stride-th socket. It is a probe.Visitor.
type sampler struct {
	of           sock.PortRange
	to           netip.AddrPort
	inodes       []uint32
	seen, stride int
}

// Reset implements probe.Visitor.
func (v *sampler) Reset() { v.inodes, v.seen, v.stride = nil, 0, 0 }

// Add implements probe.Visitor.
func (v *sampler) Add(s *netlinkdiag.Socket) {
	to := netip.AddrPortFrom(s.Remote.Addr().Unmap(), s.Remote.Port())
	if !v.of.Contains(s.Local.Port()) || v.to.IsValid() && to != v.to {
		return
	}
	if v.seen++; v.seen%(v.stride+1) != 0 {
		return
	}
	if len(v.inodes) == sampleSize {
		for i := range sampleSize / 2 {
			v.inodes[i] = v.inodes[2*i+1]
		}
		v.inodes, v.stride = v.inodes[:sampleSize/2], 2*v.stride+1
		if v.seen%(v.stride+1) != 0 {
			return
		}
	}
	v.inodes = append(v.inodes, s.Inode)
}
