package failures

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/facts"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/watch"
)

// short says what a row is in a few words.
func short(rows []Recent) []string {
	out := make([]string, 0, len(rows))
	for _, r := range rows {
		out = append(out, fmt.Sprintf("%d %s x%d %v", r.Port, r.Process, r.Count, r.Last.Sub(r.First)))
	}
	return out
}

func recentOf(r *Recorder) []Recent { return r.conflicts.recent.all() }

func TestRecentFailuresAreTheLatestFirstAndRepeatsOne(t *testing.T) {
	r := recorderOf(t, []sock.PortRange{one(80)},
		failed(80, "a", 1*time.Second), failed(80, "b", 2*time.Second), failed(8080, "c", 3*time.Second),
		failed(80, "a", 4*time.Second), failed(80, "a", 6*time.Second))
	want := []string{"80 a x3 5s", "8080 c x1 0s", "80 b x1 0s"}
	if got := short(recentOf(r)); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestRecentFailuresDifferByWhatTheCallWas(t *testing.T) {
	changes := []func(*bindtrace.Event){
		func(*bindtrace.Event) {},
		func(e *bindtrace.Event) { e.Errno = unix.EACCES },
		func(e *bindtrace.Event) { e.Protocol = sock.UDP },
		func(e *bindtrace.Event) { e.Addr = netip.IPv4Unspecified() },
		func(e *bindtrace.Event) { e.Netns = foreignNetns },
		func(e *bindtrace.Event) { e.Port, e.PortKnown = 0, false },
		func(e *bindtrace.Event) { e.Port = 0 },
		func(e *bindtrace.Event) { e.Port, e.OwnRange = 0, true },
	}
	var events []bindtrace.Event
	for _, change := range append(changes, changes...) {
		e := failed(80, "a", 0)
		change(&e)
		events = append(events, e)
	}
	rows := recentOf(recorderOf(t, []sock.PortRange{one(80)}, events...))
	if len(rows) != len(changes) {
		t.Errorf("%d rows, want %d: %q", len(rows), len(changes), short(rows))
	}
	for _, r := range rows {
		if r.Count != 2 {
			t.Errorf("%+v has count %d, want 2", r, r.Count)
		}
		if watched := r.Netns == ownNetns && r.PortKnown && !r.OwnRange; r.Watched != watched {
			t.Errorf("%+v: watched %v, want %v", r, r.Watched, watched)
		}
	}
}

// storm makes failures of a user under ever new names, on all ports in turn.
func storm(r *Recorder, uid uint32, watched ...uint16) {
	for i := range 20_000 {
		e := failed(watched[i%len(watched)], fmt.Sprintf("name%d", i), time.Hour+time.Duration(i))
		e.UID = uid
		r.add(&e)
	}
}

func TestStormKeepsNoMoreThanItsBound(t *testing.T) {
	r := recorderOf(t, []sock.PortRange{one(80)})
	storm(r, 1000, 80, 8080)
	if n := len(recentOf(r)); n > 2*(maxRecent+maxRecentOthers) {
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
			r := recorderOf(t, []sock.PortRange{one(80), one(443), {First: 1000, Last: 1400}}, failed(80, "service", 0))
			storm(r, tt.uid, tt.watched...)
			if !slices.ContainsFunc(recentOf(r), func(row Recent) bool { return row.Process == "service" }) {
				t.Error("the service's failure was pushed out")
			}
		})
	}
}

// Whoever runs in containers makes binds fail in network namespaces of their own, as many as they like.
func TestStormElsewhereDoesNotPushOutOwnFailures(t *testing.T) {
	r := recorderOf(t, []sock.PortRange{one(80)}, failed(80, "service", 0), failed(8080, "service", 0))
	for i := range 20_000 {
		e := failed(uint16(1+i%60_000), fmt.Sprint("storm", i), time.Hour+time.Duration(i))
		e.Netns, e.UID = 4026540000+uint32(i%9999), uint32(i%7)
		r.add(&e)
	}
	own := 0
	for _, row := range recentOf(r) {
		if row.Netns == ownNetns {
			own++
		}
	}
	if own != 2 {
		t.Errorf("%d rows of the own network namespace, want both", own)
	}
}

// A user who has a range of subordinate ids, or a user namespace, has 65,536 user ids. A container's
// root can open network namespaces.
func TestStormOfManyIDsDoesNotPushOutOtherUsers(t *testing.T) {
	for _, tt := range []struct {
		name   string
		victim uint32
		change func(e *bindtrace.Event, i int)
	}{
		{"subordinate ids", 1000, func(e *bindtrace.Event, i int) { e.UID = 100_000 + uint32(i%65536) }},
		{"those of a container", 1000, func(e *bindtrace.Event, i int) { e.UID = 524_288 + uint32(i%65536) }},
		{"beside those of another container", 165_536 + 7, func(e *bindtrace.Event, i int) { e.UID = 100_000 + uint32(i%65536) }},
		{"beside those of a neighbour that is counted from 0", 131_072 + 7, func(e *bindtrace.Event, i int) { e.UID = 65_536*3 + uint32(i%65536) }},
		{"ids anywhere, in a user namespace", 1000, func(e *bindtrace.Event, i int) { e.User, e.UID = 1001, uint32(i)*65_539 }},
		{"root of another network namespace", 0, func(e *bindtrace.Event, _ int) { e.UID, e.Netns = 0, foreignNetns }},
	} {
		for _, order := range []string{"before", "amid"} {
			t.Run(tt.name+", "+order, func(t *testing.T) {
				set := []watch.Set{watching(t, one(80), sock.PortRange{First: 1000, Last: 1999})}
				r := newRecorder()
				r.watch(map[uint32][]watch.Set{ownNetns: set, foreignNetns: set}, nil)
				for i := range 20_000 {
					if i == map[string]int{"before": 0, "amid": 10_000}[order] {
						e := failed(80, "service", 0)
						e.UID = tt.victim
						r.add(&e)
					}
					e := failed(uint16(1000+i%1000), "storm", time.Hour+time.Duration(i))
					tt.change(&e, i)
					r.add(&e)
				}
				if !slices.ContainsFunc(recentOf(r), func(row Recent) bool { return row.Process == "service" }) {
					t.Error("the service's failure was pushed out")
				}
			})
		}
	}
}

func TestRecentFailureGetsItsDiagnosis(t *testing.T) {
	with := failed(80, "with", 2)
	with.Addr, with.ReuseAddr = netip.IPv4Unspecified(), true
	without := failed(80, "without", 1)
	without.Addr = netip.IPv4Unspecified()
	later := failed(443, "later", 3)
	later.Addr = netip.IPv4Unspecified()
	refused := without
	refused.Errno, refused.UnprivilegedStart, refused.PrivilegeLacked, refused.Time = unix.EACCES, 1024, true, refused.Time.Add(-1)
	r := recorderOf(t, []sock.PortRange{one(80), one(443)}, with, without, later, refused)

	left := bindrule.Socket{
		Addr: netip.IPv4Unspecified(), State: sock.StateTimeWait, Kind: sock.KindTimeWait, ReuseAddr: bindrule.Yes,
		Count: 3, Expires: time.Minute,
	}
	at := portID{netns: ownNetns, port: 80}
	taken, _ := r.conflicts.take()
	r.conflicts.settle(at, taken[at], &facts.Observation{Seen: bindrule.Port{Sockets: []bindrule.Socket{left}}})

	var got []string
	for _, row := range recentOf(r) {
		got = append(got, fmt.Sprintf("%s settled=%v %s", row.Process, row.settled.Code != "", row.Diagnosis().Code))
	}
	want := []string{"later settled=false unknown", "with settled=true unknown", "without settled=true time_wait", "without settled=true port_privileged"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func BenchmarkRecentStorm(b *testing.B) {
	r := newRecent(ownNetns)
	e := failed(80, "", 0)
	key := Key{Netns: ownNetns, Port: 80}
	for i := 0; b.Loop(); i++ {
		e.Time = e.Time.Add(1)
		e.Process = fmt.Sprint(i)
		r.add(key, &e, owner.Owner{})
	}
}
