package tcpcount

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/verdict"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/netlinkdiag"
	"sockstate_exporter/netlinkdiag/diagtest"
)

// newTestCount counts the sockets of the ports in set. With all it keeps every socket for the verdicts.
func newTestCount(set watch.Set, all bool, localPorts sock.PortRange) *Count {
	return &Count{
		Set:     set,
		Counter: ports.NewCounter(set, 0),
		Clients: ports.NewClients(nil, localPorts, new(ports.Listening).Ports(), watch.Set{}),
		Views:   make([]verdict.View, len(set.Ports)),
		All:     all,
	}
}

// A dump that begins anew begins with nothing.
func TestResetForgetsAllCounts(t *testing.T) {
	set := watchedSet(t, 80)
	c := newTestCount(set, true, netlinkdiag.Port(4000))
	s := diagtest.InState(netlinkdiag.StateCloseWait, "127.0.0.1:80", "127.0.0.1:4000")
	client := diagtest.InState(netlinkdiag.StateEstablished, "127.0.0.1:4000", "127.0.0.1:443")
	for range 2 {
		c.Reset()
		c.Add(&s)
		c.Add(&client)
	}
	if got := c.Views[0].Port(linux.Timers{}, time.Time{}).Sockets; len(got) != 1 || got[0].Count != 1 {
		t.Errorf("a bind meets %+v, want one socket", got)
	}
	want := [netlinkdiag.NumStates]uint64{netlinkdiag.StateCloseWait: 1}
	if got := c.Counter.Ports()[0].IPv4.States; got != want {
		t.Errorf("counted %v, want %v", got, want)
	}
	if got := c.Clients.Ephemeral().IPv4; !slices.Equal(got, []uint64{1}) {
		t.Errorf("local ports in use: %v, want 1", got)
	}
}

func watchedSet(t testing.TB, numbers ...uint16) watch.Set {
	t.Helper()
	cfg := watch.Config{MaxPorts: len(numbers)}
	for _, p := range numbers {
		cfg.Ports = append(cfg.Ports, watch.Spec{PortRange: sock.PortRange{First: p, Last: p}})
	}
	w, err := watch.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return w.Update(time.Time{}, nil)
}

// BenchmarkCount counts a million sockets, with eBPF and without.
func BenchmarkCount(b *testing.B) {
	const million = 1_000_000
	for _, watched := range []int{1, 512} {
		numbers := make([]uint16, watched)
		for i := range numbers {
			numbers[i] = uint16(1000 + i)
		}
		set := watchedSet(b, numbers...)
		for _, kinds := range []struct {
			name string
			of   func(i int, s *netlinkdiag.Socket)
		}{
			{"time_wait", func(int, *netlinkdiag.Socket) {}},
			{"mixed", func(i int, s *netlinkdiag.Socket) { // as in a hash table: the next one is of another kind
				switch i * 7919 % 5 {
				case 0:
					s.State, s.Timer, s.UID = netlinkdiag.StateEstablished, netlinkdiag.TimerNone, 33
				case 1:
					s.State, s.Timer, s.UID = netlinkdiag.StateCloseWait, netlinkdiag.TimerNone, 33
				case 2:
					s.Local = netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 1}), s.Local.Port())
				}
			}},
		} {
			sockets := make([]netlinkdiag.Socket, 8192)
			for i := range sockets {
				s := diagtest.TimeWait("127.0.0.1:80", "127.0.0.1:4000", time.Duration(i)*time.Millisecond)
				s.Local = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), numbers[i*31%watched])
				kinds.of(i, &s)
				sockets[i] = s
			}
			for _, all := range []bool{false, true} {
				b.Run(fmt.Sprintf("ports=%d/%s/all=%v", watched, kinds.name, all), func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						c := newTestCount(set, all, sock.PortRange{})
						for i := range million {
							c.Add(&sockets[i%len(sockets)])
						}
					}
					b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/million, "ns/socket")
				})
			}
		}
	}
}

// clientSocket is one of a client, connected to destination n.
func clientSocket(local uint16, n uint32) netlinkdiag.Socket {
	var addr [4]byte
	binary.BigEndian.PutUint32(addr[:], 10<<24|n)
	return netlinkdiag.Socket{
		Family: netlinkdiag.FamilyIPv4, State: netlinkdiag.StateEstablished,
		Local:  netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), local),
		Remote: netip.AddrPortFrom(netip.AddrFrom4(addr), 443),
	}
}

// A million sockets of one port are counted: a server's, and clients' of one and of many
// destinations.
func BenchmarkCountClients(b *testing.B) {
	const sockets = 1_000_000
	servers := make([]netlinkdiag.Socket, 1024)
	for i := range servers {
		servers[i] = clientSocket(4840, uint32(i))
		servers[i].State = netlinkdiag.StateTimeWait
	}
	clientsTo := func(destinations uint32) []netlinkdiag.Socket {
		all := make([]netlinkdiag.Socket, 1<<16)
		for i := range all {
			all[i] = clientSocket(uint16(32768+i%28000), uint32(i)%destinations)
		}
		return all
	}
	set := watchedSet(b, 4840)
	for _, bm := range []struct {
		name       string
		sockets    []netlinkdiag.Socket
		localPorts sock.PortRange
	}{
		{"server, clients not counted", servers, sock.PortRange{}},
		{"server", servers, sock.PortRange{First: 32768, Last: 60999}},
		{"clients of 3", clientsTo(3), sock.PortRange{First: 32768, Last: 60999}},
		{"clients of 65536", clientsTo(1 << 16), sock.PortRange{First: 32768, Last: 60999}},
	} {
		b.Run(bm.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c := newTestCount(set, false, bm.localPorts)
				for i := range sockets {
					c.Add(&bm.sockets[i%len(bm.sockets)])
				}
			}
		})
	}
}
