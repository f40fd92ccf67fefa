package check

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/report"
)

// udpAnswers is answers for UDP.
func udpAnswers(t *testing.T, ns *kerneltest.NetNS, code int, args ...string) (lines []string, judged *report.Report) {
	t.Helper()
	r := run(t, command(t, ns, args...))
	if r.code != code || r.stderr != "" {
		t.Errorf("%v: exit status %d, error %q, want %d\n%s", args, r.code, r.stderr, code, r.stdout)
	}
	return strings.Split(r.stdout, "\n"), check(t, ns, code, args...)
}

func TestUDPPortInUse(t *testing.T) {
	requireFlags(t)
	ns := kerneltest.New(t)
	ns.ListenUDP(t, netip.MustParseAddrPort("127.0.0.1:4840"), kerneltest.Options{})
	ns.DialUDP(t, netip.MustParseAddrPort("127.0.0.2:4840"), netip.MustParseAddrPort("127.0.0.9:9"), kerneltest.Options{})

	lines, judged := udpAnswers(t, ns, ExitBlocked, "4840/udp")
	if len(judged.Ports) != 0 || len(judged.UDP) != 1 {
		t.Fatalf("got %+v", judged)
	}
	p := &judged.UDP[0]
	s := &p.Sockets[0]
	if len(p.Sockets) != 1 || s.Owner == nil || s.ReuseAddr.String() != "no" || s.Restart.Outcome != report.Free || p.Connected != 1 || !p.InUse {
		t.Errorf("got %+v", p)
	}
	if want := "4840/udp: in use by " + whoIs(s.Owner) + "; a restart would work"; lines[0] != want {
		t.Errorf("first line %q, want %q", lines[0], want)
	}
	if p.Diagnosis == nil || p.Diagnosis.Code != codes.UDPInUse || p.Diagnosis.Holder == nil {
		t.Errorf("diagnosis %+v", p.Diagnosis)
	}
	udpAnswers(t, ns, ExitFree, "--restart", "4840/udp")
	udpAnswers(t, ns, ExitFree, "127.0.0.3:4840/udp")
	udpAnswers(t, ns, ExitBlocked, "127.0.0.2:4840/udp")
	udpAnswers(t, ns, ExitFree, "4840/tcp")
}

// A port without a protocol is about both, and says which is which.
func TestBarePortIsAboutBothProtocols(t *testing.T) {
	ns := kerneltest.New(t)
	lines, judged := udpAnswers(t, ns, ExitFree, "4840")
	if lines[0] != "4840: free" || len(judged.Ports) != 1 || len(judged.UDP) != 0 {
		t.Errorf("first line %q of %+v", lines[0], judged)
	}
	ns.ListenUDP(t, netip.MustParseAddrPort("127.0.0.1:4840"), kerneltest.Options{})
	lines, _ = udpAnswers(t, ns, ExitBlocked, "4840")
	if lines[0] != "4840/tcp: free" || !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, "4840/udp: in use by ") }) {
		t.Errorf("lines %q", lines)
	}
	lines, _ = udpAnswers(t, ns, ExitBlocked, "4839-4841")
	if lines[0] != "4839-4841: 2 of 3 ports are free" || !strings.HasPrefix(lines[1], "4840/udp: in use by ") {
		t.Errorf("lines %q", lines)
	}
}

// A client that got the port by chance is told about only where UDP was asked for.
func TestClientWithThePort(t *testing.T) {
	requireFlags(t)
	ns := kerneltest.New(t)
	ns.Sysctl(t, "net.ipv4.ip_local_port_range", "4840 4840")
	ns.ListenUDP(t, netip.MustParseAddrPort("127.0.0.1:0"), kerneltest.Options{})
	lines, _ := udpAnswers(t, ns, ExitFree, "4840")
	if lines[0] != "4840: free" {
		t.Errorf("first line %q", lines[0])
	}
	_, judged := udpAnswers(t, ns, ExitBlocked, "4840/udp")
	if d := judged.UDP[0].Diagnosis; d == nil || !strings.Contains(d.Sentence, "the kernel chose the port") || !strings.Contains(d.Remedy, "ip_local_reserved_ports") {
		t.Errorf("diagnosis %+v", d)
	}
}

func TestUDPSocketOfTheKernel(t *testing.T) {
	requireFlags(t)
	ns := kerneltest.New(t)
	ns.AddVXLAN(t, "tunnel0", port)
	lines, judged := udpAnswers(t, ns, ExitBlocked, "4840/udp")
	if want := "4840/udp: in use by the kernel (VXLAN); a restart would work"; lines[0] != want {
		t.Errorf("first line %q, want %q", lines[0], want)
	}
	if d := judged.UDP[0].Diagnosis; d == nil || d.Code != codes.UDPKernelSocket || d.Holder != nil {
		t.Errorf("diagnosis %+v", d)
	}
}

// Two servers that share a port by their flags are named, unless the port is for multicast.
func TestUDPPortThatServersShare(t *testing.T) {
	requireFlags(t)
	ns := kerneltest.New(t)
	startServer(t, ns, "udp:chrony")
	startServer(t, ns, "udp:rsyslog")
	shared := func() *report.Diagnosis {
		t.Helper()
		_, judged := udpAnswers(t, ns, ExitBlocked, "4840/udp")
		return judged.UDP[0].Shared
	}
	d := shared()
	if d == nil || d.Code != codes.UDPShared || !strings.Contains(d.Sentence, "udp:chrony") || !strings.Contains(d.Sentence, "udp:rsyslog") ||
		!strings.Contains(d.Sentence, "by SO_REUSEADDR") {
		t.Errorf("diagnosis %+v", d)
	}
	startServer(t, ns, "udp:avahi:224.0.0.251")
	if d := shared(); d == nil || strings.Contains(d.Sentence, "avahi") {
		t.Errorf("with a multicast socket: %+v", d)
	}
}

// The halves of a port can be in different hands. One server has both as a rule.
func TestHalvesOfAUDPPortInDifferentHands(t *testing.T) {
	requireFlags(t)
	ns := kerneltest.New(t)
	only6 := true
	ns.ListenUDP(t, at(netip.IPv6Unspecified()), kerneltest.Options{V6Only: &only6})
	mine := ns.ListenUDP(t, at(any4), kerneltest.Options{})
	if _, judged := udpAnswers(t, ns, ExitBlocked, "4840/udp"); judged.UDP[0].Split != nil {
		t.Errorf("one server: %+v", judged.UDP[0].Split)
	}
	if err := mine.Close(); err != nil {
		t.Fatal(err)
	}
	pid := startServer(t, ns, "udp:dnsmasq")
	lines, judged := udpAnswers(t, ns, ExitBlocked, "4840/udp")
	d := judged.UDP[0].Split
	want := fmt.Sprintf("IPv4 is served by udp:dnsmasq (pid %d), and IPv6 by ", pid)
	if d == nil || d.Code != codes.SplitPort || !strings.HasPrefix(d.Sentence, want) || !strings.Contains(strings.Join(lines, "\n"), want) {
		t.Errorf("got %+v, want %s\n%q", d, want, lines)
	}
}

func TestMulticastPortIsNotShared(t *testing.T) {
	requireFlags(t)
	ns := kerneltest.New(t)
	startServer(t, ns, "udp:avahi:224.0.0.251")
	startServer(t, ns, "udp:browser:224.0.0.251")
	_, judged := udpAnswers(t, ns, ExitBlocked, "4840/udp")
	if d := judged.UDP[0].Shared; d != nil {
		t.Errorf("diagnosis %+v, want none", d)
	}
	if s := judged.UDP[0].Sockets; len(s) != 1 || s[0].Sockets != 2 {
		t.Errorf("sockets %+v", s)
	}
}

// The verdicts are those of real binds.
func TestUDPVerdictsAreTrue(t *testing.T) {
	requireFlags(t)
	for _, opts := range []kerneltest.Options{{}, {ReuseAddr: true}, {ReusePort: true}} {
		for _, on := range []string{"0.0.0.0", "127.0.0.1", "::", "::1"} {
			ns := kerneltest.New(t)
			ns.ListenUDP(t, netip.AddrPortFrom(netip.MustParseAddr(on), port), opts)
			r := run(t, command(t, ns, "--json", "0.0.0.0:4840/udp", "127.0.0.1:4840/udp", "[::]:4840/udp", "[::1]:4840/udp"))
			binds := reportOf(t, r, r.code).UDP[0].Binds
			if len(binds) != 4 {
				t.Errorf("%d binds, want 4", len(binds))
			}
			for _, b := range binds {
				for reuseAddr, answer := range map[bool]report.Answer{false: b.Without, true: b.With} {
					if got := bindUDP(t, ns, netip.AddrPortFrom(b.Address, port), reuseAddr); answer.Outcome != got {
						t.Errorf("%s with %+v, bind to %s with SO_REUSEADDR %v: said %s, is %s", on, opts, b.Address, reuseAddr, answer.Outcome, got)
					}
				}
			}
		}
	}
}

// serveUDP has a socket with SO_REUSEADDR, that joins a multicast group if its name ends with one.
func serveUDP(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	if group, err := netip.ParseAddr(name[strings.LastIndexByte(name, ':')+1:]); err == nil {
		if err := unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, &unix.IPMreqn{Multiaddr: group.As4(), Ifindex: 1}); err != nil {
			return err
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: port}); err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, "ready")
	for {
		_ = unix.Pause()
	}
}

func bindUDP(t *testing.T, ns *kerneltest.NetNS, addr netip.AddrPort, reuseAddr bool) (got report.Outcome) {
	t.Helper()
	ns.Do(t, func() {
		fd, err := unix.Socket(kerneltest.Family(addr.Addr()), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.Close(fd) }()
		if reuseAddr {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
				t.Fatal(err)
			}
		}
		switch err := unix.Bind(fd, kerneltest.Sockaddr(addr)); err {
		case nil:
			got = report.Free
		case unix.EADDRINUSE:
			got = report.Blocked
		default:
			t.Fatal(err)
		}
	})
	return got
}

func TestWaitForAUDPPort(t *testing.T) {
	ns := kerneltest.New(t)
	s := ns.ListenUDP(t, netip.MustParseAddrPort("127.0.0.1:4840"), kerneltest.Options{})
	r := run(t, command(t, ns, "--wait=1ms", "4840/udp"))
	if r.code != ExitBlocked || !strings.HasPrefix(r.stderr, "waiting: 4840/udp: in use by ") && r.stderr != "" {
		t.Errorf("%+v", r)
	}
	w, first := startWaiting(t, ns, "--wait", "4840/udp")
	if !strings.HasPrefix(first, "waiting: 4840/udp: in use by ") {
		t.Errorf("said %q, want who has the port", first)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if code, said := w.end(t); code != ExitFree || said != "" || !strings.HasPrefix(w.stdout.String(), "4840/udp: free\n") {
		t.Errorf("exit status %d, then said %q and wrote %q", code, said, w.stdout.String())
	}
}
