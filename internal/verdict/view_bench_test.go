package verdict

import (
	"net/netip"
	"testing"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/netlinkdiag"
	"sockstate_exporter/netlinkdiag/diagtest"
)

// BenchmarkViewAdd is what a View costs for each socket of a dump.
func BenchmarkViewAdd(b *testing.B) {
	server := func(n int) (out []netlinkdiag.Socket) {
		states := []netlinkdiag.State{netlinkdiag.StateEstablished, netlinkdiag.StateCloseWait, netlinkdiag.StateFinWait2}
		for i := range n {
			out = append(out, diagtest.InState(states[i%len(states)], "192.0.2.1:80", "192.0.2.9:4000"))
		}
		return out
	}
	addresses := func(n int) (out []netlinkdiag.Socket) {
		for i := range n {
			s := diagtest.InState(netlinkdiag.StateEstablished, "192.0.2.1:80", "192.0.2.9:4000")
			s.Local = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)}), 80)
			out = append(out, s)
		}
		return out
	}
	for _, bench := range []struct {
		name    string
		sockets []netlinkdiag.Socket
	}{
		{"a server", server(4096)},
		{"a hundred addresses", addresses(100)},
		{"a flood of addresses", addresses(8192)},
		{"a server in a flood", append(addresses(2048), server(1<<16)...)},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			var v View
			v.Expect(bindrule.NewFolding([]bindrule.Request{{Addr: netip.MustParseAddr("192.0.2.1")}, {Addr: netip.IPv4Unspecified()}}))
			n := 0
			for b.Loop() {
				v.Add(&bench.sockets[n])
				if n++; n == len(bench.sockets) {
					n = 0
				}
			}
		})
	}
}
