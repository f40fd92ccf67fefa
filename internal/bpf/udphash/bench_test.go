package udphash_test

import (
	"fmt"
	"net/netip"
	"testing"

	"sockstate_exporter/internal/kerneltest"
)

func BenchmarkRead(b *testing.B) {
	r := newReader(b)
	for _, sockets := range []uint16{1, 100, 10_000} {
		b.Run(fmt.Sprintf("sockets=%d", sockets), func(b *testing.B) {
			ns := kerneltest.New(b)
			opts := kerneltest.Options{ReusePort: true}
			ns.ListenUDP(b, netip.MustParseAddrPort("127.0.0.1:5300"), opts)
			for i := range sockets - 1 {
				ns.DialUDP(b, netip.MustParseAddrPort("127.0.0.1:5300"), netip.AddrPortFrom(netip.MustParseAddr("127.0.0.9"), 1+i), opts)
			}
			for b.Loop() {
				if _, err := r.Read(ns.FD(), []uint16{port, 53, 123, 514}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
