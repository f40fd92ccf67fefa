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

// ofNetns are the values of collectors in one namespace.
func ofNetns(t *testing.T, s snapshot.Snapshot, netns string) map[string]string {
	t.Helper()
	c, _ := collectorOf(s)
	text := exposition(t, c)
	got := make(map[string]string)
	for _, name := range []string{"tcp", "listener", "reuse", "restart", "udp", "remote", "ephemeral", "stack", "watch", "bind", "connect", "netns"} {
		if v, ok := values(text, "sockstate_netns_collector_success")[`collector="`+name+`",netns="`+netns+`"`]; ok {
			got[name] = v
		}
	}
	return got
}

// successIn is that of all collectors that look at each namespace.
func successIn(change func(map[string]string)) map[string]string {
	all := map[string]string{
		"tcp": "1", "listener": "1", "reuse": "1", "restart": "1", "udp": "1", "remote": "1", "ephemeral": "1", "stack": "1", "watch": "1",
	}
	change(all)
	return all
}

func TestANamespaceThatFailsIsToldFromThoseThatAreWell(t *testing.T) {
	s := wholeSnapshot(t)
	s.Others = []snapshot.Namespace{
		{Name: "blue", Inode: 2, Listeners: snapshot.Part[[]ports.Group]{Err: errBroken}},
		{Name: "green", Inode: 3, Remote: snapshot.Part[[]ports.RemotePort]{Err: snapshot.ErrOff}},
	}
	for netns, want := range map[string]map[string]string{
		"":      successIn(func(map[string]string) {}),
		"blue":  successIn(func(all map[string]string) { all["listener"] = "0" }),
		"green": successIn(func(all map[string]string) { delete(all, "remote") }),
	} {
		if got := ofNetns(t, s, netns); !maps.Equal(got, want) {
			t.Errorf("in %q: %v, want %v", netns, got, want)
		}
	}
	c, _ := collectorOf(s)
	if got := values(exposition(t, c), "sockstate_scrape_collector_success")[`collector="listener"`]; got != "0" {
		t.Errorf("of all namespaces: %s, want 0", got)
	}
}

func TestWhatIsSwitchedOffIsInNoNamespace(t *testing.T) {
	s := wholeSnapshot(t)
	s.Listeners.Err = snapshot.ErrOff
	s.Others = []snapshot.Namespace{{Name: "blue", Inode: 2, Listeners: snapshot.Part[[]ports.Group]{Err: snapshot.ErrOff}}}
	for _, netns := range []string{"", "blue"} {
		want := successIn(func(all map[string]string) { delete(all, "listener") })
		if got := ofNetns(t, s, netns); !maps.Equal(got, want) {
			t.Errorf("in %q: %v, want %v", netns, got, want)
		}
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
