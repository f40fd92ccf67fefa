package bench

import (
	"fmt"
	"net/netip"
	"testing"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/timewait"
)

// BenchmarkNamespaces is about other network namespaces with two listeners each, and one more that has
// all TIME_WAIT sockets.
func BenchmarkNamespaces(b *testing.B) {
	kerneltest.RequireRoot(b)
	for _, size := range []struct{ others, n int }{{100, 1}, {100, 400_000}, {500, 1}} {
		b.Run(fmt.Sprintf("others=%d/n=%d", size.others, size.n), func(b *testing.B) {
			own, busy := newNetNS(b, size.n), kerneltest.New(b)
			args := []string{"--netns=" + busy.Path()}
			for range size.others {
				ns := kerneltest.New(b)
				for _, port := range everyOther(2) {
					ns.Listen(b, netip.AddrPortFrom(netip.IPv4Unspecified(), port), kerneltest.Options{ReuseAddr: true})
				}
				args = append(args, "--netns="+ns.Path())
			}
			l := busy.Listen(b, netip.AddrPortFrom(netip.IPv4Unspecified(), busyPort), kerneltest.Options{ReuseAddr: true})
			w := &timeWaits{ns: busy, opts: timewait.Options{Listeners: []*kerneltest.Listener{l}, Count: size.n}}
			w.bench(b, []contender{ours(b, own, args...).contender("everything", ourCount, size.n, 0)})
		})
	}
}
