package collector

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/verdict"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/netlinkdiag"
)

// BenchmarkRender is a scrape without the kernel: a snapshot of so many ports, each with a
// listener, to compressed text.
func BenchmarkRender(b *testing.B) {
	for _, watched := range []int{1, 100, 512} {
		b.Run(fmt.Sprintf("ports=%d", watched), func(b *testing.B) {
			snap := snapshotOfPorts(b, watched)
			c := New(func(context.Context) snapshot.Snapshot { return snap }, nil, slog.New(slog.DiscardHandler))
			h := c.Handler(prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
			r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
			r.Header.Set("Accept-Encoding", "gzip")
			b.ReportAllocs()
			for b.Loop() {
				h.ServeHTTP(httptest.NewRecorder(), r)
			}
		})
	}
}

func snapshotOfPorts(b *testing.B, n int) snapshot.Snapshot {
	b.Helper()
	w, err := watch.New(watch.Config{Ports: []watch.Spec{{PortRange: sock.PortRange{First: 1000, Last: uint16(999 + n)}}}, MaxPorts: n})
	if err != nil {
		b.Fatal(err)
	}
	var snap snapshot.Snapshot
	snap.Inode = ownNetns
	snap.Watch.Data = w.Update(time.Time{}, nil)
	for _, p := range snap.Watch.Data.Ports {
		snap.TCP.Data = append(snap.TCP.Data, ports.PortSockets{Number: p.Number})
		snap.Listeners.Data = append(snap.Listeners.Data, ports.Group{GroupKey: ports.GroupKey{
			Port: p.Number, Family: netlinkdiag.FamilyIPv4, Address: netip.IPv4Unspecified(),
		}, ReuseAddr: bindrule.Yes, ReusePort: bindrule.No})
		free := verdict.Verdict{Verdict: bindrule.Verdict{Outcome: bindrule.Free, UntilKnown: true}, BlockersKnown: true}
		snap.Verdicts.Data = append(snap.Verdicts.Data, verdict.Port{
			Number: p.Number,
			Binds: []verdict.Bind{
				{Address: netip.IPv4Unspecified(), Verdict: free},
				{Address: netip.IPv4Unspecified(), ReuseAddr: true, Verdict: free},
			},
			Restarts: []verdict.Restart{{Address: netip.IPv4Unspecified(), Verdict: free}},
		})
	}
	note(&snap.Namespace, nil)
	return snap
}
