package collector

import (
	"bytes"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/verdict"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/netlinkdiag"
)

var (
	verdictFree     = verdict.Verdict{Verdict: bindrule.Verdict{Outcome: bindrule.Free, UntilKnown: true}, BlockersKnown: true}
	verdictUnknown  = verdict.Verdict{Verdict: bindrule.Verdict{Doubtful: []int{0}}}
	verdictMinute   = blockedFor(time.Minute, map[netlinkdiag.State]uint64{netlinkdiag.StateTimeWait: 212})
	verdictForever  = blockedForEver(map[netlinkdiag.State]uint64{netlinkdiag.StateTimeWait: 2, netlinkdiag.StateCloseWait: 1})
	verdictSomeTime = verdict.Verdict{Verdict: bindrule.Verdict{Outcome: bindrule.Blocked, Until: time.Second, Doubtful: []int{1}}}
)

func blockedFor(left time.Duration, by map[netlinkdiag.State]uint64) verdict.Verdict {
	v := verdict.Verdict{Verdict: bindrule.Verdict{Outcome: bindrule.Blocked, Until: left, UntilKnown: true}, BlockersKnown: true}
	for state, n := range by {
		v.Blockers[state] = n
	}
	return v
}

func blockedForEver(by map[netlinkdiag.State]uint64) verdict.Verdict {
	v := blockedFor(0, by)
	v.Forever = true
	return v
}

// binds are the two rows of an address.
func binds(address string, without, with verdict.Verdict) []verdict.Bind {
	a := netip.MustParseAddr(address)
	return []verdict.Bind{{Address: a, Verdict: without}, {Address: a, ReuseAddr: true, Verdict: with}}
}

func restart(address string, ifindex uint32, v verdict.Verdict) verdict.Restart {
	return verdict.Restart{Address: netip.MustParseAddr(address), Ifindex: ifindex, Verdict: v}
}

// withVerdicts is a snapshot of everything, with these verdicts.
func withVerdicts(t *testing.T, watched ...verdict.Port) snapshot.Snapshot {
	t.Helper()
	s := wholeSnapshot(t)
	s.Verdicts = snapshot.Part[[]verdict.Port]{Data: watched, Duration: time.Second}
	return s
}

func verdictText(t *testing.T, watched ...verdict.Port) []byte {
	t.Helper()
	c, _ := collectorOf(withVerdicts(t, watched...))
	return exposition(t, c)
}

// restartMetrics are those of this collector.
func restartMetrics() []string {
	return []string{"sockstate_tcp_bind_blocked_seconds", "sockstate_tcp_bind_blockers", "sockstate_tcp_restart_blocked_seconds", "sockstate_tcp_restart_info"}
}

func TestBindRowsSayForHowLong(t *testing.T) {
	text := verdictText(t,
		verdict.Port{Number: 80, Binds: binds("0.0.0.0", verdictMinute, verdictFree)},
		verdict.Port{Number: 4840, Binds: slices.Concat(
			binds("::", verdictForever, verdictUnknown),
			binds("::ffff:192.0.2.1", verdictSomeTime, verdictFree),
		)})
	row := func(address, port, family, reuseaddr string) string {
		return fmt.Sprintf(`address="%s",family="%s",port="%s",reuseaddr="%s"`, address, family, port, reuseaddr)
	}
	want := map[string]string{
		row("0.0.0.0", "80", "ipv4", "false"):           "60",
		row("0.0.0.0", "80", "ipv4", "true"):            "0",
		row("::", "4840", "ipv6", "false"):              "+Inf",
		row("::ffff:192.0.2.1", "4840", "ipv6", "true"): "0",
		// And nothing of those that are not known.
	}
	if got := values(text, "sockstate_tcp_bind_blocked_seconds"); !maps.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestBlockersAreCountedByState(t *testing.T) {
	text := verdictText(t, verdict.Port{Number: 80, Binds: binds("0.0.0.0", verdictForever, verdictFree)})
	const row = `address="0.0.0.0",family="ipv4",port="80",reuseaddr="false"`
	want := map[string]string{row + `,state="time_wait"`: "2", row + `,state="close_wait"`: "1"}
	if got := values(text, "sockstate_tcp_bind_blockers"); !maps.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// Every state but those of listeners and of requests, which hold no port, has its row.
func TestNoBlockerGoesUncounted(t *testing.T) {
	by := make(map[netlinkdiag.State]uint64)
	for state := netlinkdiag.StateEstablished; state < netlinkdiag.NumStates; state++ {
		if state != netlinkdiag.StateListen && state != netlinkdiag.StateSynRecv {
			by[state] = 1
		}
	}
	text := verdictText(t, verdict.Port{Number: 80, Binds: binds("0.0.0.0", blockedForEver(by), verdictFree)})
	n := 0
	for _, value := range values(text, "sockstate_tcp_bind_blockers") {
		if value == "1" {
			n++
		}
	}
	if n != len(by) {
		t.Errorf("%d states have a blocker, want %d", n, len(by))
	}
}

func TestBlockersThatAreNotAllAreAbsent(t *testing.T) {
	partial := verdictForever
	partial.BlockersKnown = false
	text := verdictText(t, verdict.Port{Number: 80, Binds: slices.Concat(
		binds("0.0.0.0", partial, verdictUnknown), binds("::", verdictSomeTime, verdictUnknown),
	)})
	if got := values(text, "sockstate_tcp_bind_blockers"); len(got) != 0 {
		t.Errorf("blockers %v, want none", got)
	}
	want := map[string]string{`address="0.0.0.0",family="ipv4",port="80",reuseaddr="false"`: "+Inf"}
	if got := values(text, "sockstate_tcp_bind_blocked_seconds"); !maps.Equal(got, want) {
		t.Errorf("seconds %v, want %v", got, want)
	}
}

func TestRestartIsTheWorstOfItsDevices(t *testing.T) {
	short := blockedFor(time.Second, nil)
	for _, tt := range []struct {
		name     string
		verdicts []verdict.Verdict
		want     string // empty: no sample
	}{
		{"free", []verdict.Verdict{verdictFree}, "0"},
		{"for a minute", []verdict.Verdict{verdictMinute}, "60"},
		{"for ever", []verdict.Verdict{verdictForever}, "+Inf"},
		{"unknown", []verdict.Verdict{verdictUnknown}, ""},
		{"nobody knows how long", []verdict.Verdict{verdictSomeTime}, ""},
		{"free, a minute", []verdict.Verdict{verdictFree, verdictMinute}, "60"},
		{"a minute, free", []verdict.Verdict{verdictMinute, verdictFree}, "60"},
		{"a second, a minute, free", []verdict.Verdict{short, verdictMinute, verdictFree}, "60"},
		{"free, unknown", []verdict.Verdict{verdictFree, verdictUnknown}, ""},
		{"unknown, free", []verdict.Verdict{verdictUnknown, verdictFree}, ""},
		{"a minute, unknown", []verdict.Verdict{verdictMinute, verdictUnknown}, ""},
		{"a minute, nobody knows how long", []verdict.Verdict{verdictMinute, verdictSomeTime}, ""},
		{"for ever, unknown", []verdict.Verdict{verdictForever, verdictUnknown}, "+Inf"},
		{"unknown, for ever", []verdict.Verdict{verdictUnknown, verdictForever}, "+Inf"},
		{"a minute, for ever", []verdict.Verdict{verdictMinute, verdictForever}, "+Inf"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := verdict.Port{Number: 80}
			for i, v := range tt.verdicts {
				p.Restarts = append(p.Restarts, restart("::1", uint32(i), v))
			}
			want := make(map[string]string)
			if tt.want != "" {
				want[`address="::1",family="ipv6",port="80"`] = tt.want
			}
			if got := values(verdictText(t, p), "sockstate_tcp_restart_blocked_seconds"); !maps.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

// manyVerdicts has addresses that are easily taken for each other.
func manyVerdicts() (watched []verdict.Port) {
	for _, number := range []uint16{80, 4840} {
		p := verdict.Port{Number: number}
		for _, address := range []string{"0.0.0.0", "127.0.0.1", "::", "::1", "::ffff:0.0.0.0", "::ffff:127.0.0.1", "fe80::1"} {
			p.Binds = append(p.Binds, binds(address, verdictMinute, verdictForever)...)
			for ifindex := range uint32(3) {
				p.Restarts = append(p.Restarts, restart(address, ifindex, verdictMinute))
			}
		}
		watched = append(watched, p)
	}
	return watched
}

func TestVerdictsAreNeverTheSameSeries(t *testing.T) {
	text := verdictText(t, manyVerdicts()...) // pedantic about duplicates
	for metric, want := range map[string]int{
		"sockstate_tcp_bind_blocked_seconds":    2 * 7 * 2,
		"sockstate_tcp_bind_blockers":           2 * 7 * (1 + 2), // in TIME_WAIT, and in TIME_WAIT and CLOSE_WAIT
		"sockstate_tcp_restart_blocked_seconds": 2 * 7,
	} {
		if got := len(values(text, metric)); got != want {
			t.Errorf("%d samples of %s, want %d", got, metric, want)
		}
	}
}

func TestPromlintFindsNothingInVerdicts(t *testing.T) {
	problems, err := promlint.New(bytes.NewReader(verdictText(t, manyVerdicts()...))).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestMissingVerdictsCostTheirOwnMetricsOnly(t *testing.T) {
	for _, tt := range []struct {
		name    string
		err     error
		success string // of the collector; empty: none
	}{
		{"had", nil, "1"},
		{"failed", errBroken, "0"},
		{"late", errScrapeTimeout, "0"},
		{"switched off", snapshot.ErrOff, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := withVerdicts(t, verdict.Port{
				Number: 80, Binds: binds("0.0.0.0", verdictMinute, verdictFree),
				Restarts: []verdict.Restart{restart("0.0.0.0", 0, verdictMinute)},
			})
			all, _ := collectorOf(s)
			want := familyNames(exposition(t, all))
			if tt.err != nil {
				want = slices.DeleteFunc(want, func(name string) bool { return slices.Contains(restartMetrics(), name) })
			}
			s.Verdicts.Err = tt.err
			c, _ := collectorOf(s)
			text := exposition(t, c)
			if got := dataFamilies(text); !slices.Equal(got, want) {
				t.Errorf("got  %q\nwant %q", got, want)
			}
			success := values(text, "sockstate_scrape_collector_success")
			for collector, got := range success {
				if collector != `collector="restart"` && got != "1" {
					t.Errorf("%s failed as well", collector)
				}
			}
			if got := success[`collector="restart"`]; got != tt.success {
				t.Errorf("success %q, want %q", got, tt.success)
			}
		})
	}
}

// From the kernel's sockets to the text, without privileges that show flags.
func TestKernelVerdictsAsText(t *testing.T) {
	ns := kerneltest.New(t)
	l := ns.Listen(t, netip.MustParseAddrPort("127.0.0.1:4840"), kerneltest.Options{})
	l.Peers(t, kerneltest.StateTimeWait, 3, netip.MustParseAddr("127.0.0.1"))
	l.Peers(t, kerneltest.StateCloseWait, 2, netip.MustParseAddr("127.0.0.1"))
	l.Peers(t, kerneltest.StateSynRecv, 4, netip.MustParseAddr("127.0.0.1"))
	plan, err := watch.NewPlan(watch.Config{Listeners: true, MaxPorts: 512})
	if err != nil {
		t.Fatal(err)
	}
	taker := snapshot.New(snapshot.Config{
		Host:  &probe.Host{Config: probe.Config{NetNS: ns.FD()}},
		Watch: plan,
		Parts: snapshot.Parts{Verdicts: true},
	})
	defer taker.Close()
	text := exposition(t, New(taker.Take, nil, slog.New(slog.DiscardHandler)))

	const row = `address="127.0.0.1",family="ipv4",port="4840",reuseaddr="false"`
	if got, want := values(text, "sockstate_tcp_bind_blocked_seconds"), map[string]string{row: "+Inf"}; !maps.Equal(got, want) {
		t.Errorf("seconds %v, want %v", got, want)
	}
	blockers := values(text, "sockstate_tcp_bind_blockers")
	if want := map[string]string{row + `,state="close_wait"`: "2", row + `,state="time_wait"`: "3"}; !maps.Equal(blockers, want) {
		t.Errorf("blockers %v, want %v", blockers, want)
	}
	if got := values(text, "sockstate_tcp_restart_blocked_seconds"); len(got) != 0 {
		t.Errorf("restart of a listener with unknown flags %v, want nothing", got)
	}
}
