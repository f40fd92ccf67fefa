package snapshot

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/owner"

	"sockstate_exporter/internal/sock"
)

// told is a row in short.
func told(rows []RecentFailure) []string {
	out := make([]string, 0, len(rows))
	for _, r := range rows {
		out = append(out, fmt.Sprintf("%d %s x%d %v", r.Port, r.Process, r.Count, r.Last.Sub(r.First)))
	}
	return out
}

func recentOf(f *failures) []RecentFailure { return f.conflicts.recent.all() }

func TestRecentFailuresAreTheLatestFirstAndRepeatsOne(t *testing.T) {
	f := failuresOf(t, []sock.PortRange{one(80)},
		failed(80, "a", 1*time.Second), failed(80, "b", 2*time.Second), failed(8080, "c", 3*time.Second),
		failed(80, "a", 4*time.Second), failed(80, "a", 6*time.Second))
	want := []string{"80 a x3 5s", "8080 c x1 0s", "80 b x1 0s"}
	if got := told(recentOf(f)); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestRecentFailuresAreToldApartByWhatTheCallWas(t *testing.T) {
	changes := []func(*bindtrace.Event){
		func(*bindtrace.Event) {},
		func(e *bindtrace.Event) { e.Errno = unix.EACCES },
		func(e *bindtrace.Event) { e.Protocol = bindtrace.ProtocolUDP },
		func(e *bindtrace.Event) { e.Addr = netip.IPv4Unspecified() },
		func(e *bindtrace.Event) { e.Netns = foreignNetns },
		func(e *bindtrace.Event) { e.Port, e.PortKnown = 0, false },
	}
	var events []bindtrace.Event
	for _, change := range append(changes, changes...) {
		e := failed(80, "a", 0)
		change(&e)
		events = append(events, e)
	}
	rows := recentOf(failuresOf(t, []sock.PortRange{one(80)}, events...))
	if len(rows) != len(changes) {
		t.Errorf("%d rows, want %d: %q", len(rows), len(changes), told(rows))
	}
	for _, r := range rows {
		if r.Count != 2 {
			t.Errorf("%+v has count %d, want 2", r, r.Count)
		}
		if watched := r.Netns == ownNetns && r.PortKnown; r.Watched != watched {
			t.Errorf("%+v: watched %v, want %v", r, r.Watched, watched)
		}
	}
}

// storm makes failures of a user under ever new names, on all ports in turn.
func storm(f *failures, uid uint32, watched ...uint16) {
	for i := range 20_000 {
		e := failed(watched[i%len(watched)], fmt.Sprintf("name%d", i), time.Hour+time.Duration(i))
		e.UID = uid
		f.add(&e)
	}
}

func TestStormKeepsNoMoreThanItsBound(t *testing.T) {
	f := failuresOf(t, []sock.PortRange{one(80)})
	storm(f, 1000, 80, 8080)
	if n := len(recentOf(f)); n > maxRecent+maxRecentOthers {
		t.Errorf("%d failures are kept, want %d at most", n, maxRecent+maxRecentOthers)
	}
}

func TestStormDoesNotPushOutOtherPortsOrUsers(t *testing.T) {
	all := make([]uint16, 600)
	for i := range all {
		all[i] = uint16(1000 + i)
	}
	for _, tt := range []struct {
		name    string
		uid     uint32
		watched []uint16
	}{
		{"ports that are not watched", 0, []uint16{8080, 8081}},
		{"another watched port", 0, []uint16{443}},
		{"the same port, of another user", 1000, []uint16{80}},
		{"every watched port, of another user", 1000, all},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := failuresOf(t, []sock.PortRange{one(80), one(443), {First: 1000, Last: 1400}}, failed(80, "service", 0))
			storm(f, tt.uid, tt.watched...)
			if !slices.ContainsFunc(recentOf(f), func(r RecentFailure) bool { return r.Process == "service" }) {
				t.Error("the service's failure was pushed out")
			}
		})
	}
}

func TestRecentFailureIsToldItsCause(t *testing.T) {
	with := failed(80, "with", 2)
	with.Addr, with.ReuseAddr = netip.IPv4Unspecified(), true
	without := failed(80, "without", 1)
	without.Addr = netip.IPv4Unspecified()
	later := failed(443, "later", 3)
	later.Addr = netip.IPv4Unspecified()
	refused := without
	refused.Errno, refused.Time = unix.EACCES, refused.Time.Add(-1)
	f := failuresOf(t, []sock.PortRange{one(80), one(443)}, with, without, later, refused)

	left := bindrule.Socket{
		Addr: netip.IPv4Unspecified(), State: bindrule.State(6), Kind: bindrule.KindTimeWait, ReuseAddr: bindrule.Yes,
		Count: 3, Expires: time.Minute,
	}
	at := place{ownNetns, 80}
	f.conflicts.settle(at, f.conflicts.take()[at], &bindrule.Port{Sockets: []bindrule.Socket{left}})

	var got []string
	for _, r := range recentOf(f) {
		got = append(got, fmt.Sprintf("%s settled=%v %v %d", r.Process, r.Settled, r.Cause, len(r.Blockers)))
	}
	want := []string{"later settled=false unknown 0", "with settled=true unknown 0", "without settled=true time_wait 1", "without settled=false unknown 0"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func BenchmarkRecentStorm(b *testing.B) {
	r := newRecent()
	e := failed(80, "", 0)
	key := FailureKey{Netns: ownNetns, Port: 80}
	for i := 0; b.Loop(); i++ {
		e.Time = e.Time.Add(1)
		copy(e.Comm[:], fmt.Sprint(i))
		r.add(key, &e, owner.Owner{})
	}
}
