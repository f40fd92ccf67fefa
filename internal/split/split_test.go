package split

import (
	"net/netip"
	"slices"
	"testing"

	"sockstate_exporter/internal/failing"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/watch"
)

const (
	v4, v6 = sock.FamilyIPv4, sock.FamilyIPv6
	own    = 7
)

func on(addr string, v6only bool, owners ...owner.Owner) ports.Group {
	a := netip.MustParseAddr(addr)
	g := ports.Group{GroupKey: ports.GroupKey{Port: 80, Family: sock.FamilyOf(a), Address: a}, V6Only: v6only}
	if len(owners) > 0 {
		g.Owner, g.Others = owners[0], owners[1:]
	}
	return g
}

func fails(family sock.Family, pid int, process string, beside bool) failing.State {
	return failing.State{Key: failing.Key{Netns: own, Port: 80, Family: family}, Failing: true, PID: pid, Process: process, Beside: beside}
}

var (
	nginx  = owner.Owner{Process: "nginx", PID: 10, Unit: "nginx.service"}
	worker = owner.Owner{Process: "worker", PID: 11, Unit: "nginx.service"}
	caddy  = owner.Owner{Process: "caddy", PID: 20, Unit: "caddy.service"}
	bare   = owner.Owner{Process: "nginx", PID: 30}
	barer  = owner.Owner{Process: "nginx", PID: 31}
	docker = owner.Owner{Process: "nginx", PID: 40, Runtime: sock.RuntimeDocker, Container: "web"}
)

func TestDifferentHandsOnBothWildcardsAreApart(t *testing.T) {
	for _, tt := range []struct {
		name string
		on   []ports.Group
		want bool
	}{
		{"one server", []ports.Group{on("0.0.0.0", false, nginx), on("::", true, nginx)}, false},
		{"processes of one unit", []ports.Group{on("0.0.0.0", false, nginx), on("::", true, worker)}, false},
		{"two units", []ports.Group{on("0.0.0.0", false, nginx), on("::", true, caddy)}, true},
		{"a unit and a process without one", []ports.Group{on("0.0.0.0", false, nginx), on("::", true, bare)}, true},
		{"two processes without a unit", []ports.Group{on("0.0.0.0", false, bare), on("::", true, barer)}, true},
		{"one process without a unit", []ports.Group{on("0.0.0.0", false, bare), on("::", true, bare)}, false},
		{"a unit and a container", []ports.Group{on("0.0.0.0", false, nginx), on("::", true, docker)}, true},
		{"an IPv4-mapped wildcard", []ports.Group{on("::ffff:0.0.0.0", false, nginx), on("::", true, caddy)}, true},
		{":: covers IPv4", []ports.Group{on("::", false, caddy)}, false},
		{":: covers IPv4 beside another one", []ports.Group{on("0.0.0.0", false, nginx), on("::", false, caddy)}, false},
		{"addresses that are no wildcards", []ports.Group{on("127.0.0.1", false, nginx), on("::1", false, caddy)}, false},
		{"a wildcard and another address", []ports.Group{on("0.0.0.0", false, nginx), on("::1", false, caddy)}, false},
		{"an owner that is not known", []ports.Group{on("0.0.0.0", false, nginx), on("::", true)}, false},
		{"a SO_REUSEPORT group with one of the other half", []ports.Group{on("0.0.0.0", false, caddy, nginx), on("::", true, nginx)}, false},
		{"IPv6 alone", []ports.Group{on("::", true, nginx)}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, _, got := Apart(tt.on); got != tt.want {
				t.Errorf("apart is %v, want %v", got, tt.want)
			}
		})
	}
}

// A look is what a snapshot has, and what it makes of port 80: nothing, "apart", "ipv4" or "ipv6" for the
// missing half, each with "was" before it if it is over.
type look struct {
	on    []ports.Group
	fails []failing.State
	want  []string
}

func TestAPortIsSplitForAsLongAsItLasts(t *testing.T) {
	six, four := []ports.Group{on("::", true, nginx)}, []ports.Group{on("0.0.0.0", false, nginx)}
	both := slices.Concat(four, six)
	failed := []failing.State{fails(v4, nginx.PID, "nginx", false)}
	for _, tt := range []struct {
		name  string
		looks []look
	}{
		{"one half fails, goes on to be missing when nobody tries any more, and is healed", []look{
			{on: six, fails: failed, want: []string{"ipv4"}},
			{on: six, want: []string{"ipv4"}},
			{on: both, want: []string{"was ipv4"}},
			{on: six, want: []string{"was ipv4"}},
		}},
		{"the server is gone", []look{{on: six, fails: failed, want: []string{"ipv4"}}, {want: []string{"was ipv4"}}}},
		{"another server has its place", []look{
			{on: six, fails: failed, want: []string{"ipv4"}},
			{on: []ports.Group{on("::", true, caddy)}, want: []string{"was ipv4"}},
		}},
		{"a loopback address of IPv6", []look{{on: []ports.Group{on("127.0.0.1", false, nginx)}, fails: []failing.State{fails(v6, 10, "nginx", false)}, want: []string{"ipv6"}}}},
		{"a daemon binds before it goes into the background", []look{{on: six, fails: []failing.State{fails(v4, 9, "nginx", false)}, want: []string{"ipv4"}}}},
		{"a second copy meets the first", []look{{on: four, fails: []failing.State{fails(v6, 9, "nginx", true)}}}},
		{"its own first listener is in the way", []look{{on: four, fails: []failing.State{fails(v6, 10, "nginx", true)}, want: []string{"ipv6"}}}},
		{"another program fails", []look{{on: six, fails: []failing.State{fails(v4, 20, "caddy", false)}}}},
		{"a bind fails in another namespace", []look{{on: six, fails: []failing.State{{Key: failing.Key{Netns: 8, Port: 80, Family: v4}, Failing: true, PID: 10}}}}},
		{"a bind that does not fail any more", []look{{on: six, fails: []failing.State{{Key: failing.Key{Netns: own, Port: 80, Family: v4}, PID: 10}}}}},
		{":: serves IPv4 too", []look{{on: []ports.Group{on("::", false, nginx)}, fails: failed}}},
		{"the other server takes the half", []look{
			{on: six, fails: failed, want: []string{"ipv4"}},
			{on: slices.Concat([]ports.Group{on("0.0.0.0", false, caddy)}, six), fails: failed, want: []string{"apart", "was ipv4"}},
			{on: both, want: []string{"was apart", "was ipv4"}},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var m Memory
			set := watch.Set{Ports: []watch.Port{{Number: 79}, {Number: 80}}}
			for i, l := range tt.looks {
				if got := told(m.Update(set, l.on, own, l.fails)); !slices.Equal(got, l.want) {
					t.Errorf("look %d: %q, want %q", i, got, l.want)
				}
			}
			if got := m.Update(watch.Set{}, nil, own, nil); len(got) > 0 {
				t.Errorf("not watched any more: %+v, want nothing", got)
			}
		})
	}
}

func told(found []Port) (out []string) {
	for _, p := range found {
		text := "apart"
		if p.Missing != 0 {
			text = p.Missing.String()
		}
		if !p.Now {
			text = "was " + text
		}
		out = append(out, text)
	}
	return out
}
