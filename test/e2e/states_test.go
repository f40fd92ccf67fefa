package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/timewait"
	"sockstate_exporter/test/launch"
)

// Ports of the states. All are watched.
const (
	portQueueFull    = 4001  // its accept queue is full, and drops
	portListener     = 4002  // bind fails: another one listens
	portTimeWait     = 4003  // bind fails: TIME_WAIT
	portConnection   = 4004  // bind fails: connections, and nothing listens
	portBound        = 4005  // bind fails: a socket that is bound
	portFlag         = 4006  // the listener is opened anew with another flag
	portHalf         = 4007  // IPv6 listens; bind fails for IPv4
	portMissing      = 4008  // nothing listens
	portRestart      = 4009  // a restart would fail
	portListenFailed = 4010  // listen fails
	portUDP          = 4011  // UDP: bind fails, and nobody reads
	portForeign      = 4012  // bind fails: no such address
	portEverywhere   = 4013  // listens, on IPv4 and IPv6
	portDestination  = 4014  // connections to it take the ephemeral ports
	portAddresses    = 4015  // listens on more addresses than have series
	portCloseWait    = 4016  // its server does not close what clients have closed
	portEphemeral    = 48400 // listens, in ip_local_port_range
	portPrivileged   = 443   // bind fails: not allowed
	portTaken        = 4017  // bind fails: another program listens
	portShared       = 4018  // two programs listen
	portUDPShared    = 4019  // UDP: two programs have it
	portUDPRestart   = 4020  // UDP: a restart would fail
	portUDPHalf      = 4021  // UDP: IPv6 receives; bind fails for IPv4
)

// The instances, each of which has a namespace of its own.
const (
	instanceWeb   = "web:10048"   // almost all that can go wrong with a port
	instanceEdge  = "edge:10048"  // near its limits
	instanceFlaky = "flaky:10048" // an exporter that restarts, loses events and lacks data
	instanceBlind = "blind:10048" // an exporter without privileges
	instanceGone  = "gone:10048"  // an exporter that ended
	instanceSmall = "small:10048" // an exporter of a host with low limits
)

// states makes and keeps up what dashboards and alerts show.
type states struct {
	t *testing.T
}

// every does something until the test ends. What it uses must be there before.
func (s states) every(interval time.Duration, what string, do func() error) {
	s.t.Helper()
	ctx := s.t.Context()
	var running sync.WaitGroup
	running.Go(func() {
		for ctx.Err() == nil {
			if err := do(); err != nil {
				s.t.Errorf("%s: %v", what, err)
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(interval):
			}
		}
	})
	s.t.Cleanup(running.Wait) // runs before those that close what it uses
}

// fails binds a socket, which has to fail with the error.
func fails(ns *kerneltest.NetNS, addr netip.AddrPort, o kerneltest.Options, want error) error {
	sock, err := ns.OpenBound(addr, o)
	if err == nil {
		sock.Close()
	}
	if !errors.Is(err, want) {
		return fmt.Errorf("bind %v: %w, want %w", addr, err, want)
	}
	return nil
}

// keepFailing is a server that tries its port again and again.
func (s states) keepFailing(ns *kerneltest.NetNS, addr netip.AddrPort, want error) {
	s.t.Helper()
	s.every(time.Second, fmt.Sprintf("fail to bind %v", addr), func() error {
		return fails(ns, addr, kerneltest.Options{}, want)
	})
}

// web makes what there is before Prometheus looks, and returns what follows.
func (s states) web(ns *kerneltest.NetNS) (then func()) {
	t, client := s.t, netip.MustParseAddr("127.0.0.2")
	v6only := new(true)

	full := ns.Listen(t, loopback(portQueueFull), kerneltest.Options{Backlog: 1})
	full.Queue(t, 2, client)
	ns.Listen(t, loopback(portListener), kerneltest.Options{})
	ns.Bind(t, loopback(portBound), kerneltest.Options{})
	flag := s.flag(ns)
	ns.Listen(t, netip.AddrPortFrom(netip.IPv6Unspecified(), portHalf), kerneltest.Options{V6Only: v6only})
	half := ns.Listen(t, loopback(portHalf), kerneltest.Options{})
	half.Peers(t, kerneltest.StateEstablished, 2, client)
	stopped := ns.Listen(t, loopback(portConnection), kerneltest.Options{})
	stopped.Peers(t, kerneltest.StateEstablished, 2, client)
	ended := ns.Listen(t, loopback(portMissing), kerneltest.Options{})
	restart := ns.Listen(t, loopback(portRestart), kerneltest.Options{})
	for _, state := range []kerneltest.State{
		kerneltest.StateEstablished, kerneltest.StateCloseWait, kerneltest.StateFinWait2,
	} {
		restart.Peers(t, state, 3, client)
	}
	ns.ListenUDP(t, loopback(portUDP), kerneltest.Options{})
	ns.Listen(t, netip.AddrPortFrom(netip.IPv6Unspecified(), portEverywhere), kerneltest.Options{V6Only: new(false)})
	ns.Listen(t, loopback(portEphemeral), kerneltest.Options{})
	for i := range byte(70) {
		ns.Listen(t, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 1, i + 1}), portAddresses), kerneltest.Options{})
	}
	reuse := kerneltest.Options{ReuseAddr: true}
	notClosing := ns.Listen(t, loopback(portCloseWait), kerneltest.Options{})
	notClosing.Peers(t, kerneltest.StateCloseWait, 11, client)
	ns.Listen(t, loopback(portShared), kerneltest.Options{ReusePort: true})
	ns.ListenUDP(t, netip.AddrPortFrom(netip.IPv6Unspecified(), portUDPHalf), kerneltest.Options{V6Only: v6only})
	ns.DialUDP(t, loopback(portUDPHalf), loopback(portUDP), kerneltest.Options{})
	ns.ListenUDP(t, loopback(portUDPShared), kerneltest.Options{ReusePort: true})
	restartUDP := ns.ListenUDP(t, loopback(portUDPRestart), kerneltest.Options{ReusePort: true})
	for _, args := range [][]string{
		{loopback(portTaken).String()}, {loopback(portShared).String(), "reuseport"}, {loopback(portUDPShared).String(), "reuseport", "udp"},
		{loopback(portUDPRestart).String(), "reuseport", "udp"},
	} {
		other := start(t, "server", launch.InRole(t, ns, "server", args...))
		eventually(t, "the other program listens", func() string {
			if !has(other, "listening") {
				return "it wrote: " + other.String()
			}
			return ""
		})
	}
	if err := unix.SetsockoptInt(restartUDP.FD(), unix.SOL_SOCKET, unix.SO_REUSEPORT, 0); err != nil {
		t.Fatal(err)
	}
	first, second := ns.Bind(t, loopback(portListenFailed), reuse), ns.Bind(t, loopback(portListenFailed), reuse)
	if err := unix.Listen(first.FD(), 1); err != nil {
		t.Fatal(err)
	}

	return func() {
		for _, l := range []*kerneltest.Listener{half, stopped, ended} {
			l.Close()
		}
		s.keepFailing(ns, loopback(portListener), unix.EADDRINUSE)
		s.keepFailing(ns, loopback(portTaken), unix.EADDRINUSE)
		s.keepFailing(ns, loopback(portConnection), unix.EADDRINUSE)
		s.keepFailing(ns, loopback(portBound), unix.EADDRINUSE)
		s.keepFailing(ns, loopback(portHalf), unix.EADDRINUSE)
		s.keepFailing(ns, netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), portForeign), unix.EADDRNOTAVAIL)
		s.overflow(ns, loopback(portUDP))
		for _, port := range []uint16{portUDP, portUDPHalf} {
			s.every(time.Second, "fail to bind UDP", func() error { return failUDP(ns, loopback(port)) })
		}
		s.every(time.Second, "fail to bind a privileged port", func() error { return failPrivileged(ns, loopback(portPrivileged)) })
		s.every(time.Second, "fail to listen", func() error {
			if err := unix.Listen(second.FD(), 1); !errors.Is(err, unix.EADDRINUSE) {
				return fmt.Errorf("listen: %w, want EADDRINUSE", err)
			}
			return nil
		})
		s.every(time.Second, "leave one more connection in CLOSE_WAIT", func() error { return addPeer(t, notClosing, kerneltest.StateCloseWait, client) })
		s.every(200*time.Millisecond, "drop connections", func() error { return tryConnect(ns, loopback(portQueueFull)) })
		s.every(2*rateInterval, "change a flag", flag) // not back again within one
		s.timeWait(ns)
	}
}

// further is a namespace that the web's exporter watches as well, with a server that was stopped
// and does not get its port back.
func (s states) further(ns *kerneltest.NetNS) (then func()) {
	ns.Listen(s.t, loopback(portEverywhere), kerneltest.Options{})
	l := ns.Listen(s.t, loopback(portConnection), kerneltest.Options{})
	l.Peers(s.t, kerneltest.StateEstablished, 1, loopback(0).Addr())
	return func() {
		l.Close()
		s.keepFailing(ns, loopback(portConnection), unix.EADDRINUSE)
	}
}

// mountNetns gives the namespace a name, as ip-netns(8) does, and returns its path.
func mountNetns(t *testing.T, ns *kerneltest.NetNS, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(ns.Path(), path, "", unix.MS_BIND, ""); err != nil {
		t.Fatalf("mount network namespace on %s: %v", path, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", path, err)
		}
	})
	return path
}

// flag opens a listener, and returns what opens it anew, without SO_REUSEADDR if it was with.
func (s states) flag(ns *kerneltest.NetNS) func() error {
	var l *kerneltest.Listener
	s.t.Cleanup(func() { l.Close() })
	reuse := false
	reopen := func() (err error) {
		if l != nil {
			l.Close()
		}
		reuse = !reuse
		l, err = ns.OpenListener(loopback(portFlag), kerneltest.Options{ReuseAddr: reuse})
		return err
	}
	if err := reopen(); err != nil {
		s.t.Fatal(err)
	}
	return reopen
}

// timeWait keeps TIME_WAIT sockets on a port, and fails to bind it.
func (s states) timeWait(ns *kerneltest.NetNS) {
	round := 0
	more := func() error {
		round++
		// With the flag, so that the next listener can be opened on top of those that are there.
		return timewait.Make(ns, timewait.Options{
			Ports:   []uint16{portTimeWait},
			Count:   5,
			Client:  netip.AddrFrom4([4]byte{127, 2, byte(round), 1}),
			Options: kerneltest.Options{ReuseAddr: true},
		})
	}
	if err := more(); err != nil {
		s.t.Fatal(err)
	}
	s.every(10*time.Second, "keep sockets in TIME_WAIT", more)
	s.keepFailing(ns, loopback(portTimeWait), unix.EADDRINUSE)
}

// overflow fills a UDP socket's queue, and sends it more.
func (s states) overflow(ns *kerneltest.NetNS, to netip.AddrPort) {
	s.t.Helper()
	client := ns.DialUDP(s.t, loopback(0), to, kerneltest.Options{})
	datagram := make([]byte, 1<<10)
	s.every(200*time.Millisecond, "overflow a UDP socket", func() error {
		for range 1 << 8 {
			if _, err := unix.Write(client.FD(), datagram); err != nil {
				return fmt.Errorf("send to %v: %w", to, err)
			}
		}
		return nil
	})
}

func failUDP(ns *kerneltest.NetNS, addr netip.AddrPort) error {
	return ns.Run(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("socket: %w", err)
		}
		defer unix.Close(fd)
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: addr.Addr().As4(), Port: int(addr.Port())}); !errors.Is(err, unix.EADDRINUSE) {
			return fmt.Errorf("bind: %w, want EADDRINUSE", err)
		}
		return nil
	})
}

// failPrivileged binds without CAP_NET_BIND_SERVICE, in a thread that is thrown away.
func failPrivileged(ns *kerneltest.NetNS, addr netip.AddrPort) error {
	return ns.Run(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("socket: %w", err)
		}
		defer unix.Close(fd)
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			return fmt.Errorf("capset: %w", err)
		}
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: addr.Addr().As4(), Port: int(addr.Port())}); !errors.Is(err, unix.EACCES) {
			return fmt.Errorf("bind: %w, want EACCES", err)
		}
		return nil
	})
}

// tryConnect sends one SYN or two to a listener that does not answer.
func tryConnect(ns *kerneltest.NetNS, addr netip.AddrPort) error {
	return ns.Run(func() error {
		c, err := net.DialTimeout("tcp", addr.String(), 100*time.Millisecond)
		if err == nil {
			c.Close()
		}
		return nil
	})
}

// The limits of the edge's namespace.
const (
	timeWaitLimit   = 40
	ephemeralFirst  = 40000
	ephemeralCount  = 16
	ephemeralUsed   = 14 // by connections; most of them
	firstClientPort = 10000
)

// edge fills the TIME_WAIT table and uses up the ephemeral ports.
func (s states) edge(ns *kerneltest.NetNS) (then func()) {
	t := s.t
	ns.Sysctl(t, "net.ipv4.tcp_max_tw_buckets", strconv.Itoa(timeWaitLimit))
	ns.Sysctl(t, "net.ipv4.ip_local_port_range", fmt.Sprintf("%d %d", ephemeralFirst, ephemeralFirst+ephemeralCount-1))
	anyPort := netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	destination := ns.Listen(t, loopback(portDestination), kerneltest.Options{Backlog: ephemeralUsed})
	connect(t, ns, destination.Addr().String(), ephemeralUsed)
	for range ephemeralCount - ephemeralUsed {
		ns.Bind(t, anyPort, kerneltest.Options{})
	}
	l := listenIn(t, ns, loopback(portEverywhere))
	return func() {
		s.keepFailing(ns, anyPort, unix.EADDRINUSE)
		s.every(time.Second, "fail to connect", func() error { return failConnect(ns, destination.Addr()) })
		port := uint16(firstClientPort)
		s.every(100*time.Millisecond, "fill the TIME_WAIT table", func() error {
			port++
			return serveOnce(ns, l, port)
		})
	}
}

// failConnect connects to a destination that all ephemeral ports are taken for.
func failConnect(ns *kerneltest.NetNS, to netip.AddrPort) error {
	return ns.Run(func() error {
		c, err := net.Dial("tcp", to.String())
		if err == nil {
			c.Close()
		}
		if !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("connect: %w, want EADDRNOTAVAIL", err)
		}
		return nil
	})
}

func listenIn(t *testing.T, ns *kerneltest.NetNS, addr netip.AddrPort) net.Listener {
	t.Helper()
	file := os.NewFile(uintptr(dup(t, ns.Listen(t, addr, kerneltest.Options{}).FD())), "listener")
	defer file.Close()
	l, err := net.FileListener(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// serveOnce accepts a connection from the port and closes it first.
func serveOnce(ns *kerneltest.NetNS, l net.Listener, from uint16) error {
	return ns.Run(func() error {
		d := net.Dialer{Timeout: patience, LocalAddr: net.TCPAddrFromAddrPort(loopback(from))}
		client, err := d.Dial("tcp", l.Addr().String())
		if err != nil {
			return err
		}
		defer client.Close()
		server, err := l.Accept()
		if err != nil {
			return err
		}
		server.Close()
		if err := client.SetReadDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			return fmt.Errorf("read from a server that closed: %w, want EOF", err)
		}
		return nil
	})
}

// loseEvents makes more binds fail than the exporter's ring holds while it does not run.
func (s states) loseEvents(e *exporter) {
	s.t.Helper()
	if err := e.Cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		s.t.Fatal(err)
	}
	if err := launch.InRole(s.t, e.ns, "storm", "50000").Run(); err != nil {
		s.t.Errorf("storm: %v", err)
	}
	if err := e.Cmd.Process.Signal(syscall.SIGCONT); err != nil {
		s.t.Fatal(err)
	}
}

// addPeer opens one more connection, which stays until the test ends.
func addPeer(t *testing.T, l *kerneltest.Listener, state kerneltest.State, from netip.Addr) error {
	peers, err := l.OpenPeers(state, 1, from)
	for _, p := range peers {
		t.Cleanup(func() { _ = p.Close() })
	}
	return err
}

// lowLimits returns a directory that has what the exporter reads in /proc/sys/net/ipv4, with limits
// of the host that a few sockets are beyond. Other namespaces than the host's have no such limits.
func lowLimits(t *testing.T, ns *kerneltest.NetNS) string {
	t.Helper()
	dir := t.TempDir()
	files := map[string]string{"tcp_mem": "1 1 1000000", "tcp_max_orphans": "1"}
	for _, name := range []string{"ip_local_port_range", "ip_local_reserved_ports", "tcp_max_tw_buckets"} {
		err := ns.Run(func() error {
			content, err := os.ReadFile(filepath.Join(ipv4Sysctls, name))
			files[name] = string(content)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// orphan keeps orphans: the server has closed a connection, and the client does not read.
func (s states) orphan(ns *kerneltest.NetNS) {
	s.t.Helper()
	l := ns.Listen(s.t, loopback(portEverywhere), kerneltest.Options{})
	much := make([]byte, 1<<20)
	var left []*kerneltest.Peer
	s.t.Cleanup(func() {
		for _, p := range left {
			_ = p.Close()
		}
	})
	s.every(10*time.Second, "leave an orphan", func() error {
		peers, err := l.OpenPeers(kerneltest.StateEstablished, 1, loopback(0).Addr())
		if err != nil {
			return err
		}
		left = append(left, peers[0])
		for {
			if _, err := unix.Write(peers[0].Local.FD(), much); errors.Is(err, unix.EAGAIN) {
				return peers[0].Local.Orphan()
			} else if err != nil {
				return fmt.Errorf("write: %w", err)
			}
		}
	})
}
