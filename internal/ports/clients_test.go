package ports

import (
	"cmp"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/netlinkdiag"
	"sockstate_exporter/netlinkdiag/diagtest"
)

// clientSocket is one of a client, connected to destination n.
func clientSocket(local uint16, n uint32) netlinkdiag.Socket {
	var addr [4]byte
	binary.BigEndian.PutUint32(addr[:], 10<<24|n)
	return netlinkdiag.Socket{
		Family: netlinkdiag.FamilyIPv4, State: netlinkdiag.StateEstablished,
		Local:  netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), local),
		Remote: netip.AddrPortFrom(netip.AddrFrom4(addr), 443),
	}
}

// What is shown is too low by Error at most, never too high, and Error is bounded.
func TestBusiestDestinationsAreWithinTheirError(t *testing.T) {
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 0))
		exact := make(map[uint32]uint64)
		var stream []uint32
		add := func(n uint32, times int) {
			exact[n] += uint64(times)
			for range times {
				stream = append(stream, n)
			}
		}
		heavy := 1 + random.IntN(5)
		for n := range heavy {
			add(uint32(n), 1000+random.IntN(2000))
		}
		for range random.IntN(60_000) {
			add(uint32(100+random.IntN(1<<uint(4+random.IntN(19)))), 1)
		}
		random.Shuffle(len(stream), func(i, j int) { stream[i], stream[j] = stream[j], stream[i] })

		d := destinations{counts: make(map[destination]uint64)}
		clear(exact)
		total := uint64(0)
		for _, n := range stream {
			s := clientSocket(40000, n)
			many := uint64(1 + random.IntN(3)) // sockets at once, as a walk shows them
			exact[n] += many
			total += many
			d.add(&s, many)
			if len(d.counts) > maxDestinations {
				t.Fatalf("%d destinations are kept, want %d at most", len(d.counts), maxDestinations)
			}
		}
		got := d.busiest()
		want := slices.SortedFunc(func(yield func(uint64) bool) {
			for _, n := range exact {
				if !yield(n) {
					return
				}
			}
		}, func(a, b uint64) int { return cmp.Compare(b, a) })
		if bound := total / maxDestinations; got.Error > bound {
			t.Errorf("seed %d: error %d of %d sockets, want %d at most", seed, got.Error, total, bound)
		}
		for i := range got.IPv4 {
			if got.IPv4[i] > want[i] || got.IPv4[i]+got.Error < want[i] {
				t.Errorf("seed %d: rank %d has %d, want %d, less %d at most", seed, i+1, got.IPv4[i], want[i], got.Error)
			}
		}
		if len(got.IPv4) != min(busiest, len(want)) {
			t.Errorf("seed %d: %d ranks", seed, len(got.IPv4))
		}
	}
}

func TestDestinationsAreToldApart(t *testing.T) {
	d := destinations{counts: make(map[destination]uint64)}
	for _, pair := range [][2]string{
		{"10.0.0.1:40000", "10.9.9.9:443"},
		{"10.0.0.1:40001", "10.9.9.9:443"},
		{"[::ffff:10.0.0.1]:40002", "[::ffff:10.9.9.9]:443"}, // IPv4 on a socket of AF_INET6
		{"10.0.0.2:40003", "10.9.9.9:443"},                   // another source
		{"10.0.0.2:40004", "10.9.9.9:443"},
		{"10.0.0.1:40005", "10.9.9.9:80"}, // another port
		{"[fe80::1]:40006", "[fe80::9]:443"},
	} {
		s := diagtest.InState(netlinkdiag.StateEstablished, pair[0], pair[1])
		d.add(&s, 1)
	}
	got := d.busiest()
	if !slices.Equal(got.IPv4, []uint64{3, 2, 1}) || !slices.Equal(got.IPv6, []uint64{1}) {
		t.Errorf("got %+v, want 3, 2, 1 and 1", got)
	}
}

func TestClientsAreThoseWithAPortOfTheRange(t *testing.T) {
	c := NewClients(watch.NewFixed([]sock.PortRange{netlinkdiag.Port(443)}), sock.PortRange{First: 40000, Last: 40001},
		slices.Values([]uint16{40001}), watch.Set{})
	for _, port := range []uint16{39999, 40000, 40001, 40002} {
		s := clientSocket(port, 1)
		c.Add(&s)
	}
	bound := diagtest.InState(netlinkdiag.StateClose, "127.0.0.1:40000", "0.0.0.0:0")
	c.Add(&bound)
	if got := c.Ephemeral().IPv4; !slices.Equal(got, []uint64{1}) {
		t.Errorf("in use: %v, want 1", got)
	}
	if n := c.Remote()[0].IPv4[netlinkdiag.StateEstablished]; n != 4 {
		t.Errorf("%d sockets to the remote port, want 4", n)
	}
	c.Reset() // the dump was restarted
	if len(c.Ephemeral().IPv4) != 0 || c.Remote()[0] != (RemotePort{Number: 443}) {
		t.Errorf("after a restart: %+v, %+v", c.to, c.ports)
	}
}

// However many network namespaces are walked at once, the memory is bounded, and one with few destinations
// has them all.
func TestManyClientsShareARoom(t *testing.T) {
	const namespaces = 64
	room := NewRoom(namespaces)
	all := make([]*Clients, namespaces)
	for i := range all {
		all[i] = NewClients(nil, sock.PortRange{First: 40000, Last: 40001}, slices.Values([]uint16(nil)), watch.Set{})
		all[i].Share(room)
	}
	total, flooded := 0, all[:namespaces-1]
	for n := range uint32(3 * maxDestinations / 2) {
		for _, c := range flooded {
			s := clientSocket(40000, n)
			c.Add(&s)
		}
	}
	last := all[namespaces-1]
	for n := range uint32(maxShared / namespaces) {
		s := clientSocket(40000, n)
		last.AddMany(&s, uint64(n)+1)
	}
	for _, c := range all {
		total += len(c.to.counts)
	}
	if total > 2*maxShared {
		t.Errorf("%d destinations are kept, want %d at most", total, 2*maxShared)
	}
	const most = maxShared / namespaces
	if got := last.Ephemeral(); got.Error != 0 || !slices.Equal(got.IPv4, []uint64{most, most - 1, most - 2}) {
		t.Errorf("got %+v, want exact numbers", got)
	}
	for _, c := range all {
		c.Reset()
	}
	if room.left != maxShared {
		t.Errorf("%d left, want %d", room.left, maxShared)
	}
}
