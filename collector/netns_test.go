package collector

import (
	"maps"
	"strings"
	"syscall"
	"testing"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/snapshot"
)

// Where a collector has all its data, the namespace has no series.
func TestANamespaceThatFailsIsToldFromThoseThatAreWell(t *testing.T) {
	s := wholeSnapshot(t)
	s.Others = []snapshot.Namespace{
		{Name: "blue", Inode: 2, Listeners: snapshot.Part[[]ports.Group]{Err: errBroken}},
		{Name: "green", Inode: 3, Remote: snapshot.Part[[]ports.RemotePort]{Err: snapshot.ErrOff}},
	}
	s.Stack.Err = errBroken
	c, _ := collectorOf(s)
	text := exposition(t, c)
	want := map[string]string{`collector="listener",netns="blue"`: "0", `collector="stack"`: "0"}
	if got := values(text, "sockstate_netns_collector_success"); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := values(text, "sockstate_scrape_collector_success")[`collector="listener"`]; got != "0" {
		t.Errorf("of all namespaces: %s, want 0", got)
	}
}

func TestWhatIsSwitchedOffFailsInNoNamespace(t *testing.T) {
	s := wholeSnapshot(t)
	s.Listeners.Err = snapshot.ErrOff
	s.Others = []snapshot.Namespace{{Name: "blue", Inode: 2, Listeners: snapshot.Part[[]ports.Group]{Err: snapshot.ErrOff}}}
	c, _ := collectorOf(s)
	if got := values(exposition(t, c), "sockstate_netns_collector_success"); len(got) != 0 {
		t.Errorf("got %v, want nothing", got)
	}
}

// A namespace that is not found for a moment: what was counted there does not move to "other" and
// back, and there is nothing else of it.
func TestFailuresInAMissedNamespaceKeepItsName(t *testing.T) {
	s := wholeSnapshot(t)
	s.Missed = []snapshot.Namespace{{Name: "blue", Inode: 77}}
	s.Binds.Data.Counts = []bindtrace.Count{{Key: bindtrace.Key{Netns: 77, Port: 80, Op: bindtrace.OpBind, Errno: syscall.EADDRINUSE}, N: 5}}
	c, _ := collectorOf(s)
	text := exposition(t, c)
	n := 0
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, `netns="blue"`) {
			n++
			if !strings.HasPrefix(line, "sockstate_bind_failures_total{") || !strings.HasSuffix(line, " 5\n") {
				t.Errorf("got %s", line)
			}
		}
	}
	if n != 1 {
		t.Errorf("%d samples, want 1", n)
	}
}
