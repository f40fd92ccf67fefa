package collector

import (
	"maps"
	"net/netip"
	"testing"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/netlinkdiag"
)

func TestReuseFlagsAreOneZeroOrAbsent(t *testing.T) {
	s := wholeSnapshot(t)
	s.Listeners.Data = nil
	port := uint16(1000)
	for _, addr := range []bindrule.Flag{bindrule.Yes, bindrule.No, bindrule.FlagUnknown} {
		for _, reusePort := range []bindrule.Flag{bindrule.Yes, bindrule.No, bindrule.FlagUnknown} {
			port++
			s.Listeners.Data = append(s.Listeners.Data, ports.Group{
				GroupKey:  ports.GroupKey{Port: port, Family: netlinkdiag.FamilyIPv6, Address: netip.IPv6Unspecified()},
				ReuseAddr: addr, ReusePort: reusePort,
			})
		}
	}
	c, _ := collectorOf(s)
	text := exposition(t, c)
	series := func(port string) string {
		return `address="::",family="ipv6",port="` + port + `"`
	}
	for metric, want := range map[string]map[string]string{
		"sockstate_tcp_listener_reuseaddr": {
			series("1001"): "1", series("1002"): "1", series("1003"): "1",
			series("1004"): "0", series("1005"): "0", series("1006"): "0",
		},
		"sockstate_tcp_listener_reuseport": {
			series("1001"): "1", series("1004"): "1", series("1007"): "1",
			series("1002"): "0", series("1005"): "0", series("1008"): "0",
		},
	} {
		if got := values(text, metric); !maps.Equal(got, want) {
			t.Errorf("%s: got %v\nwant %v", metric, got, want)
		}
	}
}

// Two rows of one listener join only if they have the same labels.
func TestReuseFlagsHaveTheLabelsOfTheirListener(t *testing.T) {
	s := wholeSnapshot(t)
	c, _ := collectorOf(s)
	text := exposition(t, c)
	listeners := values(text, "sockstate_tcp_listener_accept_queue")
	flags := values(text, "sockstate_tcp_listener_reuseport")
	if len(flags) != len(s.Listeners.Data) {
		t.Errorf("%d groups have flags, want %d", len(flags), len(s.Listeners.Data))
	}
	for labels := range flags {
		if _, ok := listeners[labels]; !ok {
			t.Errorf("no listener has the labels %s", labels)
		}
	}
}

func TestFeaturesSayHowTheyWorkOrWhyNot(t *testing.T) {
	s := wholeSnapshot(t)
	features := []sock.Feature{
		{Name: "bind_tracing", Reason: "no_tracefs"},
		{Name: "reuse_flags", Mode: "pidfd", Reason: "cap_bpf", Works: true},
	}
	c := New(constant(s), features, newLogger(new(logbook)))
	want := map[string]string{
		`feature="bind_tracing",reason="no_tracefs"`:          "0",
		`feature="reuse_flags",mode="pidfd",reason="cap_bpf"`: "1",
		`feature="sock_diag"`:                                 "1",
	}
	if got := values(exposition(t, c), "sockstate_feature_available"); !maps.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}
