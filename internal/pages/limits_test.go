package pages

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/pages/missing"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/stack"
)

func value(v uint64) stack.Value { return stack.Value{V: v, OK: true} }

// nearLimits brings the exporter's own namespace near its limits.
func nearLimits(s *snapshot.Snapshot) {
	s.Stack.Data = stack.Stats{TimeWait: value(31_337), TimeWaitLimit: value(32_768), EphemeralPorts: value(28_232)}
	s.Ephemeral.Data = ports.Ephemeral{IPv4: []uint64{7, 5}, IPv6: []uint64{28_232, 1}}
	s.Binds.Data.Connects = true
	connect := func(netns uint32, n uint64, change func(*bindtrace.Key)) {
		c := bindtrace.Count{Key: bindtrace.Key{Netns: netns, Op: bindtrace.OpConnect}, N: n}
		if change != nil {
			change(&c.Key)
		}
		s.Binds.Data.Counts = append(s.Binds.Data.Counts, c)
	}
	connect(s.Inode, 12, nil)
	connect(s.Inode, 30, func(k *bindtrace.Key) { k.Family = sock.FamilyIPv6 })
	connect(s.Inode, 1000, func(k *bindtrace.Key) { k.OtherPort = true }) // failed for another reason than a lack of ports
	connect(s.Inode, 2000, func(k *bindtrace.Key) { k.Op = bindtrace.OpBind })
	connect(0, 4000, nil)
}

func TestWhatIsNotKnownOfANamespaceIsNull(t *testing.T) {
	s := troubledHost()
	s.Binds.Data.Connects = false
	s.Stack.Err, s.Stack.Data.TimeWaitLimit = errors.New("read sysctl: <no>"), stack.Value{}
	s.Ephemeral.Err = snapshot.ErrOff
	page := portsPage(t, s, "&netns=")
	row := page.Namespaces[0]
	if row.TimeWait == nil || *row.TimeWait != 31_337 || row.EphemeralLimit == nil || row.TimeWaitLimit != nil || row.Ephemeral != nil || row.ConnectFailures != nil {
		t.Errorf("got %+v, want what of the stack could be read alone", row)
	}
	want := []missing.Part{{Part: "ephemeral", State: missing.Off}, {Part: "stack", State: missing.Failed, Error: s.Stack.Err.Error()}}
	if !slices.Equal(page.Parts, want) {
		t.Errorf("parts %+v, want %+v", page.Parts, want)
	}
	body := get(t, newPages(t, s).Ports(), "/ports?netns=")
	_, section, _ := strings.Cut(body, "<h2>This host</h2>")
	for _, want := range []string{">31337</span>", ">not known, of 28232</span>", "not counted</td>"} {
		if !strings.Contains(section, want) {
			t.Errorf("no %q in\n%s", want, section)
		}
	}
}

func TestConnectsThatCouldNotBeCountedAreSaid(t *testing.T) {
	s := troubledHost()
	s.Binds.Err = errors.New("read counts: no")
	page := portsPage(t, s, "&netns=")
	if want := []missing.Part{{Part: "connect", State: missing.Failed, Error: "read counts: no"}}; !slices.Equal(page.Parts, want) || page.Namespaces[0].ConnectFailures != nil {
		t.Errorf("parts %+v and %v failures, want %+v and none", page.Parts, page.Namespaces[0].ConnectFailures, want)
	}
}

func TestNamespaceOfWhichNothingIsKnownHasNoLine(t *testing.T) {
	s := new(snapshot.Snapshot)
	s.Stack.Err, s.Ephemeral.Err, s.Binds.Err = snapshot.ErrOff, snapshot.ErrOff, snapshot.ErrOff
	if body := get(t, newPages(t, s).Ports(), "/ports"); strings.Contains(body, "This host") {
		t.Errorf("/ports:\n%s", body)
	}
}

func TestFullestNamespacesFollowTheOwn(t *testing.T) {
	s := new(snapshot.Snapshot)
	for i := range 2 * maxNamespaces {
		ns := snapshot.Namespace{Name: fmt.Sprintf("ns%d", i), Inode: uint32(i + 1)}
		ns.Stack.Data = stack.Stats{TimeWait: value(uint64(i)), TimeWaitLimit: value(100), EphemeralPorts: value(100)}
		s.Others = append(s.Others, ns)
	}
	s.Others[3].Ephemeral.Data.IPv4 = []uint64{99}
	s.Others[4].Stack.Data.TimeWaitLimit = value(0) // the kernel keeps none
	page := portsPage(t, s, "")
	var got []string
	for _, ns := range page.Namespaces {
		got = append(got, ns.Netns)
	}
	if want := []string{"", "ns3", "ns31", "ns30"}; len(got) != maxNamespaces || page.NamespacesLeftOut != maxNamespaces+1 || !slices.Equal(got[:4], want) {
		t.Errorf("%q and %d more, want %q first, and %d of %d", got, page.NamespacesLeftOut, want, maxNamespaces, 2*maxNamespaces+1)
	}
	if body := get(t, newPages(t, s).Ports(), "/ports"); !strings.Contains(body, "17 more network namespaces are left out") {
		t.Errorf("/ports:\n%s", body)
	}
}

func TestNearLimitIsMarked(t *testing.T) {
	for _, tt := range []struct {
		used, limit uint64
		want        Tag
	}{
		{0, 100, Tag{"0 of 100", none}},
		{90, 100, Tag{"90 of 100", none}},
		{91, 100, Tag{"91 of 100", warn}},
		{100, 100, Tag{"100 of 100", bad}},
		{0, 0, Tag{"0 of 0", none}},
	} {
		if got := ofLimit(&tt.used, &tt.limit); got != tt.want {
			t.Errorf("%d of %d: %+v, want %+v", tt.used, tt.limit, got, tt.want)
		}
	}
}
