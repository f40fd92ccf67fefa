package sockwalk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"

	"sockstate_exporter/internal/bpf/bhash"
	"sockstate_exporter/internal/sock"
)

// maxHeadPorts is MAX_PORTS of sockwalk.c.
const maxHeadPorts = 1024

// heads is struct heads.
type heads struct {
	Ports            [maxHeadPorts]uint16
	Count, Namespace uint32
}

// list is struct list.
type list struct{ Namespace, Ended uint32 }

// boundSocket is struct bound_socket.
type boundSocket struct {
	Socket    [bhash.SocketSize]byte
	Namespace uint64
}

// forgetBound removes what the walk before has left.
func (p *programs) forgetBound() error {
	return errors.Join(
		drain(p.objs.Bound, func(uint64, boundSocket) {}),
		drain(p.objs.Lists, func(uint64, list) {}),
	)
}

// heads looks at the heads of the lists of bind buckets, before the walk.
func (p *programs) heads(req *Request, found []bool) error {
	if p.config.Bound == 0 {
		return nil
	}
	if err := p.forgetBound(); err != nil {
		return fmt.Errorf("forget bound sockets: %w", err)
	}
	for i := range req.Namespaces {
		if !req.Namespaces[i].Bound || !found[i] {
			continue
		}
		for ports := range slices.Chunk(req.Namespaces[i].Watched, maxHeadPorts) {
			h := heads{Count: uint32(len(ports)), Namespace: uint32(i)}
			copy(h.Ports[:], ports)
			b, err := binary.Append(p.buf[:0], binary.NativeEndian, &h)
			if err != nil {
				return fmt.Errorf("encode ports: %w", err)
			}
			if err := p.headPorts.write(b, 0); err != nil {
				return err
			}
			if _, err := p.run(p.objs.Heads); err != nil {
				return err
			}
		}
	}
	return nil
}

// bound visits the sockets that are only bound, and says in which namespaces all were found.
func (p *programs) bound(req *Request, found []bool, visit func(*Group)) ([]bool, error) {
	all := make([]bool, len(found))
	if p.config.Bound == 0 {
		return all, nil
	}
	b, err := p.namespaces.read(p.buf[:len(found)*namespaceSize], 0)
	if err != nil {
		return nil, err
	}
	for i := range found {
		const offsetIncomplete = 29
		all[i] = found[i] && req.Namespaces[i].Bound && b[i*namespaceSize+offsetIncomplete] == 0
	}
	err = drain(p.objs.Lists, func(_ uint64, l list) {
		if l.Ended == 0 {
			all[l.Namespace] = false
		}
	})
	if err != nil {
		return nil, fmt.Errorf("read lists: %w", err)
	}
	err = drain(p.objs.Bound, func(_ uint64, of boundSocket) {
		if !all[of.Namespace] {
			return
		}
		s := bhash.DecodeSocket(of.Socket[:], 0, p.tick)
		g := Group{
			Namespace: int(of.Namespace), Family: sock.FamilyIPv6, State: s.State, Kind: s.Kind,
			Local: netip.AddrPortFrom(s.Addr, s.Port), Ifindex: s.Ifindex, UID: s.UID, V6Only: s.V6Only,
			Flags: s.ReuseFlags, FlagsKnown: true, Count: 1,
		}
		if s.Addr.Is4() {
			g.Family = sock.FamilyIPv4
		}
		g.Remote = netip.AddrPortFrom(unspecified(s.Addr), 0)
		visit(&g)
	})
	if err != nil {
		return nil, fmt.Errorf("read bound sockets: %w", err)
	}
	return all, nil
}

func unspecified(addr netip.Addr) netip.Addr {
	if addr.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// drain visits the entries of a map, and removes them.
func drain[V any](m *ebpf.Map, visit func(uint64, V)) error {
	var keys []uint64
	var key uint64
	var value V
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		keys = append(keys, key)
		visit(key, value)
	}
	if err := entries.Err(); err != nil || len(keys) == 0 {
		return err
	}
	_, err := m.BatchDelete(keys, nil)
	return err
}
