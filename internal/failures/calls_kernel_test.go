package failures

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe" //nolint:depguard // landlock(7) has no wrapper

	"github.com/vishvananda/netlink"
	vishnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bindbucket"
	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/diagnosis"
	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/reexec"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/sock"
)

// A calling is a namespace in which calls fail.
type calling struct {
	*traced
	buckets bool // what has the local ports can be seen
}

// A patient finder waits for owners as long as it takes on a busy host.
type patient struct{ *owner.Finder }

func (p patient) Lookup(ctx context.Context, inodes []uint32) (map[uint32]owner.Owner, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
	defer cancel()
	return p.Finder.Lookup(ctx, inodes)
}

// newCalling follows the failed calls of a namespace, as the exporter does.
func newCalling(t *testing.T) *calling {
	t.Helper()
	c := new(calling)
	buckets, err := bindbucket.New(nil)
	if err == nil {
		c.buckets = true
		t.Cleanup(func() { _ = buckets.Close() })
	} else if !errors.As(err, new(*sock.UnavailableError)) {
		t.Logf("no bind buckets: %v", err)
	}
	finder, err := owner.New(owner.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = finder.Close() })
	c.traced = traceWith(t, "", func(ns *kerneltest.NetNS, cfg *Config) {
		cfg.Sockets, cfg.Owners = patient{finder}, finder
		if c.buckets {
			cfg.Host.Buckets = buckets
		}
		cfg.Host.LocalPorts = func() (first, last uint16, err error) {
			text, err := ns.GetSysctl("net.ipv4.ip_local_port_range")
			if err == nil {
				_, err = fmt.Sscan(text, &first, &last)
			}
			return first, last, err
		}
	})
	return c
}

// diagnosed waits until a failed call has been looked at, and returns what /failures shows.
func (c *calling) diagnosed(t *testing.T, op bindtrace.Op, at netip.AddrPort) diagnosis.Diagnosis {
	t.Helper()
	var rows []Recent
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		rows = slices.DeleteFunc(c.update(t).Recent, func(r Recent) bool { return uint64(r.Netns) != c.ns.Inode() })
		for i := range rows {
			if r := &rows[i]; r.Op == op && r.Addr == at.Addr() && r.Port == at.Port() && r.settled.Code != "" {
				return r.Diagnosis()
			}
		}
	}
	t.Fatalf("%s %v has no diagnosis: %+v", op, at, rows)
	return diagnosis.Diagnosis{}
}

func (c *calling) expect(t *testing.T, op bindtrace.Op, at netip.AddrPort, want diagnosis.Diagnosis) {
	t.Helper()
	got := c.diagnosed(t, op, at)
	if got.Code != want.Code || got.End.Kind != want.End.Kind || got.Afterwards != want.Afterwards ||
		!strings.Contains(got.Sentence, want.Sentence) || !strings.Contains(got.Remedy, want.Remedy) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// open opens a socket in the namespace of the calling thread.
func open(t *testing.T, family, typ int) int {
	t.Helper()
	fd, err := unix.Socket(family, typ|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// bind binds a TCP socket. The bind must fail.
func (c *calling) bind(t *testing.T, at netip.AddrPort, want unix.Errno) {
	t.Helper()
	c.ns.Do(t, func() { mustBind(t, at, want) })
}

func mustBind(t *testing.T, at netip.AddrPort, want unix.Errno) {
	t.Helper()
	if err := unix.Bind(open(t, kerneltest.Family(at.Addr()), unix.SOCK_STREAM), kerneltest.Sockaddr(at)); !errors.Is(err, want) {
		t.Fatalf("bind to %v: want %v, got %v", at, want, err)
	}
}

// connect connects from some sockets, and then fails.
func (c *calling) connect(t *testing.T, to netip.AddrPort, works int, prepare func(fd int)) {
	t.Helper()
	c.ns.Do(t, func() {
		for n := range works + 1 {
			fd := open(t, unix.AF_INET, unix.SOCK_STREAM)
			prepare(fd)
			err := unix.Connect(fd, kerneltest.Sockaddr(to))
			if n < works && err != nil || n == works && !errors.Is(err, unix.EADDRNOTAVAIL) {
				t.Fatalf("connect %d to %v: %v", n, to, err)
			}
		}
	})
}

func TestKernelDiagnosisOfRefusedPorts(t *testing.T) {
	c := newCalling(t)
	c.ns.Sysctl(t, "net.ipv4.ip_unprivileged_port_start", "8090")
	at := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(localhost4, port) }
	c.ns.Do(t, func() {
		var data [2]unix.CapUserData
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		if err := unix.Capget(&header, &data[0]); err != nil {
			t.Fatal(err)
		}
		data[0].Effective &^= 1 << unix.CAP_NET_BIND_SERVICE
		if err := unix.Capset(&header, &data[0]); err != nil {
			t.Fatal(err)
		}
		mustBind(t, at(8088), unix.EACCES)
	})
	c.expect(t, bindtrace.OpBind, at(8088), diagnosis.Diagnosis{
		Code: codes.PortPrivileged, End: diagnosis.End{Kind: diagnosis.EndChanged},
		Sentence: "port 8088 is below net.ipv4.ip_unprivileged_port_start (8090), and the process lacks CAP_NET_BIND_SERVICE",
		Remedy:   "or set net.ipv4.ip_unprivileged_port_start to 8088 or less",
	})
	refuses := true
	c.ns.Do(t, func() {
		attr := unix.LandlockRulesetAttr{Handled_access_net: unix.LANDLOCK_ACCESS_NET_BIND_TCP}
		fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
		if refuses = errno == 0; !refuses {
			t.Logf("Landlock cannot refuse binds here: %v", errno)
			return
		}
		defer unix.Close(int(fd))
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			t.Fatal(err)
		}
		if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); errno != 0 {
			t.Fatal(errno)
		}
		mustBind(t, at(8089), unix.EACCES)
		mustBind(t, at(8091), unix.EACCES)
	})
	if !refuses {
		return
	}
	denied := diagnosis.Diagnosis{Code: codes.DeniedByPolicy, End: diagnosis.End{Kind: diagnosis.EndChanged}, Remedy: "Landlock"}
	denied.Sentence = "a security module refused the call: the process has CAP_NET_BIND_SERVICE, so that it may bind to port 8089"
	c.expect(t, bindtrace.OpBind, at(8089), denied)
	denied.Sentence = "a security module refused the call: port 8091 needs no privilege, since net.ipv4.ip_unprivileged_port_start is 8090"
	c.expect(t, bindtrace.OpBind, at(8091), denied)
}

func TestKernelDiagnosisOfRefusedAddresses(t *testing.T) {
	c := newCalling(t)
	at := func(addr string) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(addr), 4000) }
	changed := diagnosis.End{Kind: diagnosis.EndChanged}
	c.bind(t, at("192.0.2.9"), unix.EADDRNOTAVAIL)
	c.expect(t, bindtrace.OpBind, at("192.0.2.9"), diagnosis.Diagnosis{
		Code: codes.AddressMissing, End: changed, Afterwards: true,
		Sentence: "no network device of this network namespace has the address 192.0.2.9", Remedy: "net.ipv4.ip_nonlocal_bind=1",
	})
	c.bind(t, at("2001:db8::9"), unix.EADDRNOTAVAIL)
	c.expect(t, bindtrace.OpBind, at("2001:db8::9"), diagnosis.Diagnosis{
		Code: codes.AddressMissing, End: changed, Afterwards: true,
		Sentence: "no network device of this network namespace has the address 2001:db8::9", Remedy: "net.ipv6.ip_nonlocal_bind=1",
	})

	c.ns.AddDummy(t, "d0")
	c.ns.Sysctl(t, "net.ipv6.conf.d0.accept_dad", "1")
	c.ns.Sysctl(t, "net.ipv6.conf.d0.dad_transmits", "600")
	h, err := netlink.NewHandleAt(vishnetns.NsHandle(c.ns.FD()), unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	d0, err := h.LinkByName("d0")
	if err == nil {
		err = h.LinkSetARPOn(d0) // without it, the address of a dummy device is never tentative
	}
	if err != nil {
		t.Fatal(err)
	}
	tentative := at("2001:db8::7")
	if err := h.AddrAdd(d0, &netlink.Addr{IPNet: &net.IPNet{IP: tentative.Addr().AsSlice(), Mask: net.CIDRMask(64, 128)}}); err != nil {
		t.Fatal(err)
	}
	c.bind(t, tentative, unix.EADDRNOTAVAIL)
	c.expect(t, bindtrace.OpBind, tentative, diagnosis.Diagnosis{
		Code: codes.AddressTentative, Afterwards: true,
		Sentence: "2001:db8::7 on d0 is tentative", Remedy: "Start the server after duplicate address detection",
	})

	c.ns.Sysctl(t, "net.ipv6.conf.lo.disable_ipv6", "1")
	c.bind(t, at("::1"), unix.EADDRNOTAVAIL)
	c.expect(t, bindtrace.OpBind, at("::1"), diagnosis.Diagnosis{
		Code: codes.FamilyDisabled, End: changed, Afterwards: true,
		Sentence: "IPv6 is disabled: net.ipv6.conf.lo.disable_ipv6 is 1", Remedy: "Set net.ipv6.conf.lo.disable_ipv6 to 0",
	})
}

// listenSecond binds a socket, and listens when its standard input ends: another one listens by then.
func listenSecond([]string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(fd, &unix.SockaddrInet4{Port: 4001}))
	if err != nil {
		return err
	}
	fmt.Println("bound")
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	if err := unix.Listen(fd, 1); !errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("listen: want EADDRINUSE, got %v", err)
	}
	return nil
}

func TestKernelDiagnosisOfTheSecondListen(t *testing.T) {
	c := newCalling(t)
	at := netip.AddrPortFrom(netip.IPv4Unspecified(), 4001)
	cmd := c.ns.Command(t, "/proc/self/exe")
	cmd.Env, cmd.Stderr = reexec.RoleEnv("listen-second"), os.Stderr
	in, out := reexec.StartPiped(t, cmd)
	if _, err := out.ReadByte(); err != nil {
		t.Fatal(err)
	}
	c.ns.Listen(t, at, kerneltest.Options{ReuseAddr: true})
	if err := errors.Join(in.Close(), cmd.Wait()); err != nil {
		t.Fatal(err)
	}
	got := c.diagnosed(t, bindtrace.OpListen, at)
	if got.Code != codes.SecondListen || got.End.Kind != diagnosis.EndClosed || got.State != "listen" || got.Holder.PID != os.Getpid() ||
		!strings.Contains(got.Sentence, " listens on 0.0.0.0:4001") || got.Remedy != "Stop one of the two servers." {
		t.Errorf("got %+v", got)
	}
	for _, n := range c.update(t).Conflicts {
		if n.Port == at.Port() {
			t.Errorf("counted as a bind that failed: %+v", n)
		}
	}
}

const stormPort, ownPort = 4006, 4005

// ownInAStorm meets its own listener after so many failures that the kernel does not capture what is in the way
// any more. It stays until its standard input ends.
func ownInAStorm([]string) error {
	bind := func(port int) (int, error) {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.Bind(fd, &unix.SockaddrInet4{Port: port})
		}
		return fd, err
	}
	l, err := bind(ownPort)
	if err == nil {
		err = unix.Listen(l, 1)
	}
	if err != nil {
		return err
	}
	const storm = 600
	for i := range storm + 1 {
		port := stormPort
		if i == storm {
			port = ownPort
		}
		fd, err := bind(port)
		if !errors.Is(err, unix.EADDRINUSE) {
			return fmt.Errorf("bind to port %d: want EADDRINUSE, got %v", port, err)
		}
		if err := unix.Close(fd); err != nil {
			return err
		}
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func TestKernelDiagnosisOfAnOwnListenerInAStorm(t *testing.T) {
	c := newCalling(t)
	any4 := netip.IPv4Unspecified()
	c.ns.Listen(t, netip.AddrPortFrom(any4, stormPort), kerneltest.Options{})
	cmd := c.ns.Command(t, "/proc/self/exe")
	cmd.Env, cmd.Stderr = reexec.RoleEnv("own-in-a-storm"), os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	got := c.diagnosed(t, bindtrace.OpBind, netip.AddrPortFrom(any4, ownPort))
	t.Logf("seen afterwards: %t", got.Afterwards)
	if got.Code != codes.OwnListener || got.Holder.PID != cmd.Process.Pid {
		t.Errorf("got %+v, want that of process %d", got, cmd.Process.Pid)
	}
	if err := errors.Join(in.Close(), cmd.Wait()); err != nil {
		t.Error(err)
	}
}

func TestKernelDiagnosisOfConnectsWithoutAPort(t *testing.T) {
	c := newCalling(t)
	if err := c.tracer.ConnectsErr(); err != nil {
		kerneltest.Skip(t, "connect() is not traced: %v", err)
	}
	closed, plain := diagnosis.End{Kind: diagnosis.EndClosed}, func(int) {}
	server := func(port uint16) netip.AddrPort {
		return c.ns.Listen(t, netip.AddrPortFrom(localhost4, port), kerneltest.Options{Backlog: 8}).Addr()
	}

	c.ns.Sysctl(t, "net.ipv4.ip_local_port_range", "40000 40003")
	busy := server(4010)
	c.connect(t, busy, 4, plain)
	want := diagnosis.Diagnosis{
		Code: codes.PortsExhaustedForDest, End: closed, Afterwards: true,
		Sentence: "every local port (40000-40003) is in use for 127.0.0.1:4010; other destinations still work", Remedy: "keep connections open",
	}
	if !c.buckets {
		want.Sentence, want.Afterwards = "no local port (40000-40003) is free for 127.0.0.1:4010", false
	}
	c.expect(t, bindtrace.OpConnect, busy, want)

	// A proxy binds each socket to port 0 before it connects.
	c.ns.Sysctl(t, "net.ipv4.ip_local_port_range", "41000 41003")
	bound := server(4011)
	first := func(fd int) {
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: localhost4.As4()}); err != nil {
			t.Fatal(err)
		}
	}
	c.ns.Do(t, func() {
		for range 4 {
			fd := open(t, unix.AF_INET, unix.SOCK_STREAM)
			first(fd)
			if err := unix.Connect(fd, kerneltest.Sockaddr(bound)); err != nil {
				t.Fatal(err)
			}
		}
	})
	c.bind(t, netip.AddrPortFrom(localhost4, 0), unix.EADDRINUSE)
	c.expect(t, bindtrace.OpBind, netip.AddrPortFrom(localhost4, 0), diagnosis.Diagnosis{
		Code: codes.PortsExhausted, End: closed, Afterwards: true,
		Sentence: "no port of net.ipv4.ip_local_port_range is free for this address (41000-41003); 4 sockets on them were looked at: 4 of ", Remedy: "IP_BIND_ADDRESS_NO_PORT",
	})
	elsewhere := server(4012)
	c.connect(t, elsewhere, 0, plain)
	if c.buckets {
		c.expect(t, bindtrace.OpConnect, elsewhere, diagnosis.Diagnosis{
			Code: codes.PortsExhausted, End: closed, Afterwards: true,
			Sentence: "sockets that were bound to a port have every local port (41000-41003), so that none is free for 127.0.0.1:4012 or for another destination",
			Remedy:   "IP_BIND_ADDRESS_NO_PORT",
		})
	}

	// With the late bind, each destination has all ports.
	c.ns.Sysctl(t, "net.ipv4.ip_local_port_range", "42000 42003")
	late := server(4013)
	c.connect(t, late, 4, func(fd int) {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
			t.Fatal(err)
		}
		first(fd)
	})
	want.Sentence = strings.NewReplacer("40000-40003", "42000-42003", "4010", "4013").Replace(want.Sentence)
	c.expect(t, bindtrace.OpConnect, late, want)

	const ipLocalPortRange = 51 // Linux 6.3
	own, has := server(4014), true
	c.ns.Sysctl(t, "net.ipv4.ip_local_port_range", "43000 43999")
	c.ns.Do(t, func() {
		for n := range 2 {
			fd := open(t, unix.AF_INET, unix.SOCK_STREAM)
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, ipLocalPortRange, 43000|43000<<16); err != nil {
				has = false
				t.Logf("no IP_LOCAL_PORT_RANGE: %v", err)
				return
			}
			if err := unix.Connect(fd, kerneltest.Sockaddr(own)); (err == nil) != (n == 0) {
				t.Fatalf("connect %d: %v", n, err)
			}
		}
	})
	if has {
		c.expect(t, bindtrace.OpConnect, own, diagnosis.Diagnosis{
			Code: codes.PortsExhaustedForSocket, End: diagnosis.End{Kind: diagnosis.EndChanged},
			Sentence: "IP_LOCAL_PORT_RANGE), and none of them is free for 127.0.0.1:4014", Remedy: "Widen the range that the program sets",
		})
	}
}
