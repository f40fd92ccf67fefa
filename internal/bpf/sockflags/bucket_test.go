package sockflags_test

import (
	"net/netip"
	"testing"

	"sockstate_exporter/internal/bpf/sockflags"
	"sockstate_exporter/internal/kerneltest"
)

func TestBucketRemembersTheLastReusePort(t *testing.T) {
	ns := kerneltest.New(t)
	l := ns.Listen(t, netip.AddrPortFrom(v6any, port), kerneltest.Options{ReusePort: true, V6Only: &yes})
	r := newReader(t, sockflags.Options{Mode: sockflags.ModeBPF})
	req := sockflags.Request{NetNS: ns.FD(), Ports: []uint16{port}}

	l.Peers(t, kerneltest.StateTimeWait, 1, v6lo)
	for _, step := range []string{"listener", "time_wait"} {
		got, ok := read(t, r, req).Buckets[port]
		if !ok || got.FastReusePort <= 0 || got.FastReuse != 0 || got.UID != 0 || got.Addr != v6any || !got.V6Only {
			t.Errorf("by the %s: bucket %+v, %v", step, got, ok)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestBucketForgetsReusePort(t *testing.T) {
	ns := kerneltest.New(t)
	ns.Listen(t, netip.AddrPortFrom(v4lo, port), kerneltest.Options{ReusePort: true})
	ns.Listen(t, netip.AddrPortFrom(v6lo, port), kerneltest.Options{})
	r := newReader(t, sockflags.Options{Mode: sockflags.ModeBPF})
	got, ok := read(t, r, sockflags.Request{NetNS: ns.FD(), Ports: []uint16{port}}).Buckets[port]
	if !ok || got.FastReusePort != 0 {
		t.Errorf("bucket %+v, %v, want FastReusePort 0", got, ok)
	}
}

func TestNoBucketOfAPortThatIsNotWatched(t *testing.T) {
	ns := kerneltest.New(t)
	ns.Listen(t, netip.AddrPortFrom(v4lo, port), kerneltest.Options{ReusePort: true})
	r := newReader(t, sockflags.Options{Mode: sockflags.ModeBPF})
	read(t, r, sockflags.Request{NetNS: ns.FD(), Ports: []uint16{port}}) // nothing of it stays
	if got := read(t, r, sockflags.Request{NetNS: ns.FD(), Ports: []uint16{port + 1}}).Buckets; len(got) != 0 {
		t.Errorf("buckets %+v, want none", got)
	}
}
