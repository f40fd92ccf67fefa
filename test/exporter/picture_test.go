package exporter

import (
	"net/netip"
	"strings"
	"testing"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/timewait"
	"sockstate_exporter/internal/kerneltest/tracers"
)

// The picture in README.md (`make screenshots`): a server that cannot start again, one whose queue
// is full, and one that is fine.
func TestPortsPageShowsTheStoryOfREADME(t *testing.T) {
	ns := kerneltest.New(t)
	tracers.Share(t)
	err := as("opcua-server", func() error {
		stopped := ns.Listen(t, netip.AddrPortFrom(netip.IPv4Unspecified(), 4840), kerneltest.Options{})
		full := ns.Listen(t, netip.AddrPortFrom(netip.IPv4Unspecified(), 4841), kerneltest.Options{ReuseAddr: true, Backlog: 1})
		full.Queue(t, 2, loopback(0).Addr())
		ns.Listen(t, netip.AddrPortFrom(netip.IPv6Unspecified(), 8080), kerneltest.Options{ReuseAddr: true})
		e := start(t, ns, "--watch.port=4840:opcua", "--watch.exclude=1024-65535/udp", "--watch.exclude=10048")
		e.Get(t, "/metrics") // it has seen who listens
		timewait.MustMake(t, ns, timewait.Options{Count: 212, Listeners: []*kerneltest.Listener{stopped}})
		stopped.Close()
		for range 6 {
			if err := failAs(ns, "opcua-server", 4840); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	b := openBrowser(t, ns)
	b.open(screen{width: 1100, height: 300}, "/ports?refresh=off")
	text := strings.Join(b.list(`[...document.querySelectorAll('tbody')].map(e => e.innerText)`), "\n")
	for _, want := range []string{"opcua", "212", "TIME_WAIT", "accept queue full", "8080"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	b.screenshot("readme")
}
