package failed

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/failing"
	"sockstate_exporter/internal/failures"
	"sockstate_exporter/internal/sock"
)

func TestFailedBindsOfAPort(t *testing.T) {
	now := time.Date(2026, 3, 1, 3, 0, 0, 0, time.UTC)
	fail := func(netns uint32, port uint16, protocol sock.Protocol, errno unix.Errno, n uint64, ago time.Duration) failures.Recent {
		return failures.Recent{Netns: netns, Port: port, PortKnown: true, Protocol: protocol, Errno: errno, Count: n, Last: now.Add(-ago)}
	}
	connect, anyPort := fail(1, 80, sock.TCP, unix.EADDRNOTAVAIL, 1, time.Second), fail(1, 0, sock.TCP, unix.EADDRINUSE, 1, time.Second)
	connect.Op = bindtrace.OpConnect
	unknown := fail(1, 80, sock.TCP, unix.EINVAL, 1, time.Second)
	unknown.PortKnown = false
	binds := failures.Binds{
		Recent: []failures.Recent{
			connect, anyPort, unknown,
			fail(1, 80, sock.MPTCP, unix.EPERM, 2, 40*time.Second),
			fail(1, 80, sock.TCP, unix.EADDRINUSE, 17, time.Hour),
			fail(2, 80, sock.TCP, unix.EADDRINUSE, 1, time.Hour),
			fail(1, 80, sock.UDP, unix.EADDRINUSE, 1, time.Hour),
		},
		Failing: []failing.State{
			{Key: failing.Key{Netns: 1, Port: 80, Family: sock.FamilyIPv4}, Failing: true},
			{Key: failing.Key{Netns: 1, Port: 80, Family: sock.FamilyIPv6}},
			{Key: failing.Key{Netns: 2, Port: 80, Family: sock.FamilyIPv4}},
		},
	}
	ports := New(&binds, now)
	got := ports.On(1, 80, sock.TCP)
	want := Binds{Count: 19, Failing: true, Last: now.Add(-40 * time.Second), Ago: 40, Call: "bind", Errno: "EPERM", Diagnosis: codes.DeniedByPolicy}
	if got != nil {
		want.Advice = got.Advice // by the diagnosis
	}
	if got == nil || *got != want || !strings.HasSuffix(got.Advice, "#denied_by_policy)") {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got.Text() != "19 binds failed" || got.Why() != "EPERM, denied_by_policy" {
		t.Errorf("%q, %q", got.Text(), got.Why())
	}
	if other := ports.On(2, 80, sock.TCP); other == nil || other.Failing || other.Count != 1 {
		t.Errorf("another namespace: %+v", other)
	}
	if udp := ports.On(1, 80, sock.UDP); udp == nil || udp.Failing || udp.Diagnosis != codes.UDPInUse {
		t.Errorf("UDP: %+v", udp)
	}
	if none := ports.On(1, 81, sock.TCP); none != nil || len(ports) != 3 {
		t.Errorf("%+v, %d ports, want 3", none, len(ports))
	}
}
