package situations

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf/features"
	"github.com/vishvananda/netlink"
	vishnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/diagnosis"
	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/failures"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/sock"
)

const firstPort = 10000

// The ports that the kernel gives to clients. A host with fewClients has none left.
var clients, fewClients = sock.PortRange{First: 40000, Last: 40999}, sock.PortRange{First: 40000, Last: 40001}

// A situation makes binds fail for one reason. In steps, PORT is the port of the run, and
// CGROUP a directory.
type situation struct {
	code codes.Code
	name string // of several with one code

	arrange func(*scene)
	bind    string // the step that fails, with flags and error
	before  []string
	user    uint32 // who binds

	holder string // its program; empty: none is to be named
	end    diagnosis.EndKind
	remedy string // a part of it

	cure  func(*scene) // does what the remedy says
	again string       // the step that works then; empty: none is known, or waiting is the remedy

	amid func(*scene) // when the binder waits for a byte

	fewPorts bool // on a host without free ports for clients
	apart    bool // alone on a host with few ports for clients: it changes settings, or needs the ports

	afterwards bool // the kernel does not say as the call fails what the diagnosis tells
}

// A scene is one run of a situation.
type scene struct {
	*host
	t       *testing.T
	port    uint16
	process *process       // the holder
	peer    netip.AddrPort // of the socket in the way
	remote  *kerneltest.Listener
	cgroup  string // directory
	cleanup []func()
}

func (s *scene) at(addr string) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(addr), s.port)
}

func (s *scene) steps(steps ...string) []string {
	out := make([]string, len(steps))
	for i, step := range steps {
		out[i] = strings.NewReplacer("PORT", strconv.Itoa(int(s.port)), "CGROUP", s.cgroup).Replace(step)
	}
	return out
}

func (s *scene) later(f func()) { s.cleanup = append(s.cleanup, f) }

// holds has the program take steps, and hold its sockets.
func holds(program string, steps ...string) func(*scene) {
	return holdsAs(0, program, steps...)
}

func holdsAs(uid uint32, program string, steps ...string) func(*scene) {
	return func(s *scene) {
		s.process = s.start(s.t, program, as(uid), append(s.steps(steps...), "hold")...)
		s.later(s.process.stop)
		if peer := s.process.said["peer"]; peer != "" {
			s.peer = netip.MustParseAddrPort(peer)
		}
	}
}

func as(uid uint32) func(*kerneltest.Cmd) {
	return func(c *kerneltest.Cmd) {
		if uid != 0 {
			c.As(uid, uid)
		}
	}
}

// leaves has a server leave a connection of a state to the kernel.
func leaves(state kerneltest.State, opts kerneltest.Options) func(*scene) {
	return func(s *scene) {
		l, err := s.ns.OpenListener(s.at("0.0.0.0"), opts)
		if err != nil {
			s.t.Fatal(err)
		}
		peers, err := l.OpenPeers(state, 1, localhost)
		if err != nil {
			s.t.Fatal(err)
		}
		s.peer = peers[0].Addr
		s.later(func() { _ = peers[0].Close() })
		if peers[0].Local != nil {
			err = peers[0].Local.Orphan()
		}
		if err != nil || l.Close() != nil {
			s.t.Fatal(err)
		}
		// A process that another test has forked has the listener until it executes its program.
		eventually(s.t, "the listener is closed", func() bool { return len(s.listeners(s.t, s.port)) == 0 })
	}
}

func stopHolder(s *scene) { s.process.stop() }

func situations() []situation {
	plain, reuse := kerneltest.Options{}, kerneltest.Options{ReuseAddr: true}
	holderOfBound := "" // sock_diag shows sockets that are only bound from Linux 6.8 on
	if version, err := features.LinuxVersionCode(); err == nil && version >= 6<<16|8<<8 {
		holderOfBound = server
	}
	const anyPort = "bind=0.0.0.0:PORT"
	const fails = "fail=0.0.0.0:PORT,EADDRINUSE"
	const failsWithFlag = "fail=0.0.0.0:PORT,reuseaddr,EADDRINUSE"
	const nobody = 65534
	return append(udpSituations(), []situation{
		{
			code: codes.TimeWait, name: "both sides lack the flag", arrange: leaves(kerneltest.StateTimeWait, plain), bind: fails,
			end: diagnosis.EndTime, remedy: "Set SO_REUSEADDR before bind(). This time also wait ",
		},
		{
			code: codes.TimeWait, name: "the old server had the flag", arrange: leaves(kerneltest.StateTimeWait, reuse), bind: fails,
			end: diagnosis.EndTime, remedy: "Set SO_REUSEADDR before bind(): then the bind works at once.", again: anyPort + ",reuseaddr",
		},
		{
			code: codes.TimeWaitOldFlags, arrange: leaves(kerneltest.StateTimeWait, plain), bind: failsWithFlag,
			end: diagnosis.EndTime, remedy: "Wait ",
		},
		{
			code: codes.Closing, name: "FIN_WAIT1", arrange: leaves(kerneltest.StateFinWait1, plain), bind: fails,
			end: diagnosis.EndKernel, remedy: "wait until the kernel gives the connections up",
		},
		{
			code: codes.Closing, name: "FIN_WAIT2", arrange: leaves(kerneltest.StateFinWait2, plain), bind: fails,
			end: diagnosis.EndAtLeast, remedy: "wait at least ",
		},
		{
			code: codes.Closing, name: "CLOSING", arrange: leaves(kerneltest.StateClosing, plain), bind: fails,
			end: diagnosis.EndKernel, remedy: "wait until the kernel gives the connections up",
		},
		{
			code: codes.Closing, name: "LAST_ACK", arrange: leaves(kerneltest.StateLastAck, reuse), bind: fails,
			end: diagnosis.EndKernel, remedy: "Set SO_REUSEADDR before bind(): then the bind works at once.", again: anyPort + ",reuseaddr",
		},
		{
			code: codes.AcceptedConnection, name: "established", arrange: holds(server, "accept=0.0.0.0:PORT"), bind: fails,
			holder: server, end: diagnosis.EndClosed, remedy: "or end " + server, cure: stopHolder, again: anyPort,
		},
		{
			code: codes.AcceptedConnection, name: "with the flag", arrange: holds(server, "accept=0.0.0.0:PORT,reuseaddr"), bind: fails,
			holder: server, end: diagnosis.EndClosed, remedy: "Set SO_REUSEADDR before bind(): then the bind works at once.", again: anyPort + ",reuseaddr",
		},
		{
			code: codes.AcceptedConnection, name: "CLOSE_WAIT", arrange: holds(server, "accept=0.0.0.0:PORT,half"), bind: failsWithFlag,
			holder: server, end: diagnosis.EndClosed, remedy: "Wait until they are closed, or end " + server, cure: stopHolder, again: anyPort + ",reuseaddr",
		},
		{
			code: codes.OutgoingConnection, name: "the client has bound", arrange: outgoing(server), bind: failsWithFlag,
			holder: server, end: diagnosis.EndClosed, remedy: "The bind works then, or 60 s later", cure: func(s *scene) { peerCloses(s); s.process.stop() }, again: anyPort,
		},
		{
			code: codes.OutgoingConnection, name: "the kernel chose the port", apart: true, arrange: outgoingByKernel, bind: failsWithFlag,
			holder: server, end: diagnosis.EndClosed, remedy: "net.ipv4.ip_local_reserved_ports", cure: peerCloses, again: anyPort,
		},
		{
			code: codes.SelfConnection, arrange: selfConnected, bind: failsWithFlag,
			holder: server, end: diagnosis.EndClosed, remedy: "Restart " + server, cure: stopHolder, again: anyPort,
		},
		{
			code: codes.OwnListener, name: "dual stack", before: []string{"listen=[::]:PORT,reuseaddr"}, bind: failsWithFlag,
			holder: binder, end: diagnosis.EndClosed, remedy: "Set IPV6_V6ONLY on the socket that listens on ::",
			cure: holds(server, "listen=[::]:PORT,v6only,reuseaddr"), again: anyPort + ",reuseaddr",
		},
		{
			code: codes.OwnListener, name: "the same twice", before: []string{"listen=0.0.0.0:PORT,reuseaddr"}, bind: failsWithFlag,
			holder: binder, end: diagnosis.EndClosed, remedy: "Remove one of the two listen addresses", again: anyPort,
		},
		{
			code: codes.InheritedListener, name: "the exporter has not seen the server", arrange: inheritedUnseen, bind: failsWithFlag,
			holder: helper, end: diagnosis.EndClosed, remedy: "End " + helper, cure: stopHolder, again: anyPort,
		},
		{
			code: codes.InheritedListener, arrange: inherited, bind: failsWithFlag,
			holder: helper, end: diagnosis.EndClosed, remedy: "End " + helper, cure: stopHolder, again: anyPort,
		},
		{
			code: codes.OtherListener, arrange: holds(server, "listen=0.0.0.0:PORT,reuseaddr"), bind: failsWithFlag,
			holder: server, end: diagnosis.EndClosed, remedy: "Stop " + server, cure: stopHolder, again: anyPort,
		},
		{
			code: codes.OtherListener, name: "a program of the same name", arrange: holds(binder, "listen=0.0.0.0:PORT,reuseaddr"), bind: failsWithFlag,
			// Whether both run the same executable is known where the binder lives until somebody looks.
			holder: binder, end: diagnosis.EndClosed, remedy: " instance ", cure: stopHolder, again: anyPort,
		},
		{
			code: codes.ReusePortOtherUser, arrange: holdsAs(nobody, server, "listen=0.0.0.0:PORT,reuseport"), bind: "fail=0.0.0.0:PORT,reuseport,EADDRINUSE",
			holder: server, end: diagnosis.EndClosed, remedy: "Run both servers as the same user",
			cure: func(s *scene) { s.process.stop(); holds(server, "listen=0.0.0.0:PORT,reuseport")(s) }, again: anyPort + ",reuseport",
		},
		{
			code: codes.ReusePortOtherUser, name: "the binder is the other one", user: nobody,
			arrange: holds(server, "listen=0.0.0.0:PORT,reuseport"), bind: "fail=0.0.0.0:PORT,reuseport,EADDRINUSE",
			holder: server, end: diagnosis.EndClosed, remedy: "Run both servers as the same user", again: anyPort + ",reuseport",
		},
		{
			code: codes.ReusePortMissing, name: "the listener lacks it", arrange: holds(server, "listen=0.0.0.0:PORT"), bind: "fail=0.0.0.0:PORT,reuseport,EADDRINUSE",
			holder: server, end: diagnosis.EndClosed, remedy: "Set SO_REUSEPORT on every socket",
			cure: func(s *scene) { s.process.stop(); holds(server, "listen=0.0.0.0:PORT,reuseport")(s) }, again: anyPort + ",reuseport",
		},
		{
			code: codes.ReusePortMissing, name: "the binder lacks it", arrange: holds(binder, "listen=0.0.0.0:PORT,reuseport"), bind: fails,
			holder: binder, end: diagnosis.EndClosed, remedy: "Set SO_REUSEPORT on every socket", again: anyPort + ",reuseport",
		},
		{
			code: codes.SecondListen, bind: "second=0.0.0.0:PORT,reuseaddr", amid: holds(server, "listen=0.0.0.0:PORT,reuseaddr"),
			holder: server, end: diagnosis.EndClosed, remedy: "Stop one of the two servers", cure: stopHolder, again: anyPort,
		},
		{
			code: codes.BoundOnly, arrange: holds(server, "bind=0.0.0.0:PORT"), bind: failsWithFlag,
			holder: server, end: diagnosis.EndClosed, remedy: "Find out why", cure: stopHolder, again: anyPort,
		},
		{
			code: codes.BoundOnly, name: "with the flag", arrange: holds(server, "bind=0.0.0.0:PORT,reuseaddr"), bind: fails,
			holder: server, end: diagnosis.EndClosed, remedy: "If both sockets set SO_REUSEADDR, the bind works", again: anyPort + ",reuseaddr",
		},
		{
			code: codes.PortsExhausted, fewPorts: true, bind: "fail=127.0.0.1:0,EADDRINUSE",
			holder: holderOfBound, end: diagnosis.EndClosed, afterwards: holderOfBound != "", remedy: "Widen net.ipv4.ip_local_port_range",
			cure: setting("net.ipv4.ip_local_port_range", fmt.Sprint(fewClients.First, " ", fewClients.Last+2)), again: "bind=127.0.0.1:0",
		},
		{
			code: codes.PortsExhaustedForSocket, fewPorts: true, arrange: needsOwnRange, bind: "fail=127.0.0.1:0,range,EADDRINUSE",
			end: diagnosis.EndClosed, remedy: "Widen the range that the program sets",
		},
		{
			code: codes.PortsExhaustedForDest, apart: true, arrange: busyDestination, bind: "noport=127.0.0.1:PORT",
			holder: server, end: diagnosis.EndClosed, remedy: "Let the clients keep connections open", afterwards: true,
		},
		{
			code: codes.AddressMissing, name: "IPv4", bind: "fail=192.0.2.1:PORT,EADDRNOTAVAIL",
			end: diagnosis.EndChanged, remedy: "IP_FREEBIND", again: "bind=192.0.2.1:PORT,freebind", afterwards: true,
		},
		{
			code: codes.AddressMissing, name: "IPv6", apart: true, bind: "fail=[2001:db8::1]:PORT,EADDRNOTAVAIL",
			end: diagnosis.EndChanged, remedy: "net.ipv6.ip_nonlocal_bind=1",
			cure: setting("net.ipv6.ip_nonlocal_bind", "1"), again: "bind=[2001:db8::1]:PORT", afterwards: true,
		},
		{
			code: codes.AddressTentative, arrange: tentative, bind: "fail=[2001:db8::7]:PORT,EADDRNOTAVAIL",
			end: "", remedy: "Start the server after duplicate address detection", afterwards: true,
		},
		{
			code: codes.FamilyDisabled, apart: true, arrange: setting("net.ipv6.conf.lo.disable_ipv6", "1"), bind: "fail=[::1]:PORT,EADDRNOTAVAIL",
			end: diagnosis.EndChanged, remedy: "Set net.ipv6.conf.lo.disable_ipv6 to 0", afterwards: true,
			cure: setting("net.ipv6.conf.lo.disable_ipv6", "0"), again: "bind=[::1]:PORT",
		},
		{
			code: codes.PortPrivileged, apart: true, arrange: setting("net.ipv4.ip_unprivileged_port_start", "20000"), user: nobody, bind: "fail=0.0.0.0:PORT,EACCES",
			end: diagnosis.EndChanged, remedy: "AmbientCapabilities=CAP_NET_BIND_SERVICE", cure: setting("net.ipv4.ip_unprivileged_port_start", "1024"), again: anyPort,
		},
		{
			code: codes.DeniedByPolicy, arrange: refusedByCgroup, before: []string{"join=CGROUP"}, bind: "fail=0.0.0.0:PORT,EPERM",
			end: diagnosis.EndChanged, remedy: "sandbox of the unit: SocketBindDeny=", again: anyPort,
		},
		{
			code: codes.InvalidCall, name: "bound twice", bind: "twice=0.0.0.0:PORT",
			end: diagnosis.EndChanged, remedy: "a socket can be bound only once", again: anyPort,
		},
		{
			code: codes.DeviceMissing, bind: "fail=[fe80::1%999]:PORT,ENODEV",
			end: diagnosis.EndChanged, remedy: "Start the server after the device exists",
		},
		{
			code: codes.Unknown, name: "UDP-Lite", arrange: holds(server, "bind=0.0.0.0:PORT,udplite"), bind: "fail=0.0.0.0:PORT,udplite,EADDRINUSE",
			end: "", cure: stopHolder, again: anyPort + ",udplite",
		},
	}...)
}

// setting changes a setting of the network namespace until the scene ends.
func setting(name, value string) func(*scene) {
	return func(s *scene) {
		before, err := s.ns.GetSysctl(name)
		if err != nil {
			s.t.Fatal(err)
		}
		s.later(func() { s.ns.Sysctl(s.t, name, before) })
		s.ns.Sysctl(s.t, name, value)
	}
}

// busyDestination has a client take all local ports for a destination.
func busyDestination(s *scene) {
	l, err := s.ns.OpenListener(s.at("127.0.0.1"), kerneltest.Options{Backlog: 8})
	if err != nil {
		s.t.Fatal(err)
	}
	s.later(func() { _ = l.Close() })
	var steps []string
	for range int(fewClients.Last-fewClients.First) + 1 {
		steps = append(steps, "connect=0.0.0.0:0,127.0.0.1:PORT")
	}
	holds(server, steps...)(s)
}

// tentative adds an address whose duplicate address detection does not end.
func tentative(s *scene) {
	const device = "dad0"
	s.ns.AddDummy(s.t, device)
	s.later(func() { s.ns.DeleteLink(s.t, device) })
	s.ns.Sysctl(s.t, "net.ipv6.conf."+device+".accept_dad", "1")
	s.ns.Sysctl(s.t, "net.ipv6.conf."+device+".dad_transmits", "600")
	h, err := netlink.NewHandleAt(vishnetns.NsHandle(s.ns.FD()), unix.NETLINK_ROUTE)
	if err != nil {
		s.t.Fatal(err)
	}
	defer h.Close()
	link, err := h.LinkByName(device)
	if err == nil {
		err = h.LinkSetARPOn(link) // without it, the address of a dummy device is never tentative
	}
	if err == nil {
		err = h.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP("2001:db8::7"), Mask: net.CIDRMask(64, 128)}})
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

func selfConnected(s *scene) {
	s.peer = s.at("127.0.0.1")
	holds(server, "connect=127.0.0.1:PORT,127.0.0.1:PORT")(s)
}

// outgoing has a program connect from the port.
func outgoing(program string) func(*scene) {
	return func(s *scene) {
		s.peer = s.listener(0)
		holds(program, "connect=127.0.0.1:PORT,"+s.peer.String())(s)
	}
}

// outgoingByKernel leaves the kernel no choice, so that another run cannot have the port of this one.
func outgoingByKernel(s *scene) {
	s.peer = s.listener(fewClients.Last + 1) // other situations may have left connections on the others
	setting("net.ipv4.ip_local_port_range", fmt.Sprint(s.port, " ", s.port))(s)
	holds(server, "connect=127.0.0.1:0,"+s.peer.String())(s)
}

// listener opens a listener that clients connect to. 0 is a port of theirs, which no situation has.
func (s *scene) listener(port uint16) netip.AddrPort {
	l, err := s.ns.OpenListener(netip.AddrPortFrom(localhost, port), kerneltest.Options{ReuseAddr: true})
	if err != nil {
		s.t.Fatal(err)
	}
	s.later(func() { _ = l.Close() })
	s.remote = l
	return l.Addr()
}

// peerCloses resets what the listener has not accepted.
func peerCloses(s *scene) { _ = s.remote.Close() }

// inherited has a server leave its listener to a helper. The exporter has seen the server before.
func inherited(s *scene) {
	p := s.start(s.t, server, nil, append(s.steps("listen=0.0.0.0:PORT,reuseaddr"), "wait", "child="+s.programs+"/"+helper)...)
	s.process = p
	s.later(p.stop)
	s.scrape(s.t, s.port)
	if _, err := p.stdin.Write([]byte{0}); err != nil || !p.ready() {
		s.t.Fatalf("the helper has not started: %v", err)
	}
	if err := p.Wait(); err != nil {
		s.t.Fatal(err)
	}
}

// inheritedUnseen does the same before the exporter has looked.
func inheritedUnseen(s *scene) {
	if s.files == nil {
		kerneltest.Skip(s.t, "who has opened a socket is not known without eBPF")
	}
	s.process = s.start(s.t, server, nil, append(s.steps("listen=0.0.0.0:PORT,reuseaddr"), "child="+s.programs+"/"+helper)...)
	s.later(s.process.stop)
	if err := s.process.Wait(); err != nil {
		s.t.Fatal(err)
	}
}

// needsOwnRange leaves the situation out before Linux 6.3.
func needsOwnRange(s *scene) {
	err := s.again("bind=127.0.0.2:0,range")
	if errors.Is(err, unix.ENOPROTOOPT) {
		kerneltest.SkipOrFatal(s.t, err)
	}
}

func runs(t *testing.T) int {
	t.Helper()
	text := os.Getenv("SOCKSTATE_SITUATIONS_RUNS")
	if text == "" {
		return 3
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("SOCKSTATE_SITUATIONS_RUNS=%s: want a number", text)
	}
	return n
}

// maxBatch is how often a situation is made on one host: each run takes two of the slots of a tracer for its port.
const maxBatch = 50

func TestDiagnosesOfRealFailures(t *testing.T) {
	made := tally{made: make(map[codes.Code]int), right: make(map[codes.Code]int)}
	for n, left := 0, runs(t); left > 0; left -= n {
		n = min(left, maxBatch)
		if !t.Run("all", func(t *testing.T) { made.makeAll(t, n) }) {
			break
		}
	}
	for _, code := range codes.Codes() {
		if made.made[code] > 0 {
			t.Logf("%-32s %d right of %d", code, made.right[code], made.made[code])
		}
	}
}

// A tally counts the situations that were made, and those that had the right diagnosis.
type tally struct {
	mu          sync.Mutex
	made, right map[codes.Code]int
}

func (n *tally) add(code codes.Code, right bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.made[code]++
	if right {
		n.right[code]++
	}
}

// makeAll makes each situation some times, with other ports each time.
func (n *tally) makeAll(t *testing.T, times int) {
	all := situations()
	watched := sock.PortRange{First: firstPort, Last: firstPort + uint16(times*len(all)) - 1}
	h, apart := newHost(t, watched, clients), newHost(t, watched, fewClients)
	var alone sync.Mutex
	few := newHost(t, sock.PortRange{First: firstPort, Last: firstPort}, fewClients)
	var taken []string
	for port := fewClients.First; port <= fewClients.Last; port++ {
		taken = append(taken, fmt.Sprintf("bind=127.0.0.1:%d", port))
	}
	hasAll := few.start(t, server, nil, append(taken, "hold")...)
	t.Cleanup(hasAll.stop)
	t.Run("situations", func(t *testing.T) {
		for i, of := range all {
			t.Run(string(of.code)+" "+of.name, func(t *testing.T) {
				t.Parallel()
				for run := range times {
					s := &scene{host: h, t: t, port: firstPort + uint16(i*times+run)}
					if of.fewPorts {
						s.host, s.process = few, hasAll
					}
					n.add(of.code, func() bool {
						if of.apart {
							s.host = apart
							alone.Lock()
							defer alone.Unlock()
						}
						return of.happens(s, run == 0)
					}())
				}
			})
		}
	})
}

// happens makes the situation, and says whether the diagnosis is right. thorough: it also waits for the
// end, and tries the remedy.
func (of *situation) happens(s *scene, thorough bool) bool {
	s.t.Helper()
	defer func() {
		for _, f := range slices.Backward(s.cleanup) {
			f()
		}
	}()
	if of.arrange != nil {
		of.arrange(s)
	}
	s.turns <- struct{}{}
	began := time.Now()
	p := s.start(s.t, binder, as(of.user), s.steps(append(slices.Clone(of.before), of.bind)...)...)
	if of.amid != nil {
		s.later(p.stop)
		of.amid(s)
		if _, err := p.stdin.Write([]byte{0}); err != nil || p.ready() || p.Wait() != nil {
			s.t.Fatalf("the binder has not gone on: %v", err)
		}
	}
	d := s.diagnosis(p.Process.Pid, of.afterwards)
	<-s.turns
	ok := of.check(s, p, &d)
	if thorough {
		of.checkRemedy(s)
		of.checkEnd(s, &d, began)
	}
	return ok
}

// diagnosis waits for that of the process: afterwards for what is found out after the call.
func (s *scene) diagnosis(pid int, afterwards bool) (d diagnosis.Diagnosis) {
	s.t.Helper()
	eventually(s.t, "the failure has a diagnosis", func() bool {
		rows := s.recent(s.t)
		i := slices.IndexFunc(rows, func(r failures.Recent) bool {
			found := r.Diagnosis()
			return int(r.PID) == pid && !strings.Contains(found.Sentence, "the exporter has not looked for") && (found.Afterwards || !afterwards)
		})
		if i < 0 {
			return false
		}
		if r := &rows[i]; r.Process != binder {
			s.t.Errorf("%q failed, want %q", r.Process, binder)
		}
		d = rows[i].Diagnosis()
		return true
	})
	return d
}

func (of *situation) check(s *scene, p *process, d *diagnosis.Diagnosis) bool {
	s.t.Helper()
	ok := true
	expect := func(what string, got, want any) {
		s.t.Helper()
		if got != want {
			ok = false
			s.t.Errorf("%s %v, want %v: %s", what, got, want, d.Line())
		}
	}
	pid := 0
	switch {
	case of.holder == "":
	case s.process == nil:
		pid = p.Process.Pid
	default:
		pid = s.process.pid()
	}
	peer := ""
	if s.peer.IsValid() {
		peer = s.peer.String()
	}
	expect("code", d.Code, of.code)
	expect("holder", d.Holder.Process, of.holder)
	expect("pid", d.Holder.PID, pid)
	expect("end", d.End.Kind, of.end)
	expect("peer", d.Peer, peer)
	expect("seen afterwards", d.Afterwards, of.afterwards)
	if !strings.Contains(d.Remedy, of.remedy) {
		expect("remedy", d.Remedy, "..."+of.remedy+"...")
	}
	return ok
}

// again takes a step that may fail.
func (s *scene) again(step string) error {
	verb, args, _ := strings.Cut(s.steps(step)[0], "=")
	return s.ns.Run(func() error {
		fd, err := bind(strings.Split(args, ","))
		if fd >= 0 {
			_ = unix.Close(fd)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", verb, err)
		}
		return nil
	})
}

// often is how often a bind is tried again. The kernel captures a thousand failures of a user in a second,
// and other rows of the table have the same user.
const often = 250 * time.Millisecond

// checkEnd binds until that works, where it will.
func (of *situation) checkEnd(s *scene, d *diagnosis.Diagnosis, began time.Time) {
	s.t.Helper()
	switch d.End.Kind {
	case diagnosis.EndTime, diagnosis.EndAtLeast, diagnosis.EndKernel:
	default:
		return
	}
	looked := time.Now()
	var lastFailed time.Time
	for {
		now := time.Now()
		if s.again(of.bind) == nil {
			break
		}
		lastFailed = now
		if now.Sub(looked) > patience {
			s.t.Fatalf("the bind still fails: %s", d.Line())
		}
		time.Sleep(often)
	}
	worked := time.Now()
	if worked.Before(began.Add(d.End.Left)) {
		s.t.Errorf("the bind worked after %v, not after %v", worked.Sub(began), d.End.Left)
	}
	if d.End.Kind == diagnosis.EndTime && lastFailed.After(looked.Add(d.End.Left)) {
		s.t.Errorf("the bind still failed after %v, not only for %v", lastFailed.Sub(looked), d.End.Left)
	}
}

// checkRemedy does what the remedy says.
func (of *situation) checkRemedy(s *scene) {
	s.t.Helper()
	if of.cure != nil {
		of.cure(s)
	}
	if of.again == "" {
		return
	}
	eventuallyEvery(s.t, often, of.again+" works", func() bool { return s.again(of.again) == nil })
}

// Each code that can occur has a situation, here or in another test.
func TestEachCodeHasASituation(t *testing.T) {
	made := make(map[codes.Code]bool)
	for _, of := range situations() {
		made[of.code] = true
	}
	const paths = "what is at a path: internal/unixsock/unixlook and internal/check make it"
	const state = "a state of a port without a failure: internal/check makes it"
	elsewhere := map[codes.Code]string{
		codes.SplitPort:            state,
		codes.NoReuseAddr:          state,
		codes.UDPShared:            state,
		codes.UnixInUse:            paths,
		codes.UnixStaleFile:        paths,
		codes.UnixNoSocket:         paths,
		codes.UnixDirectoryMissing: paths,
		codes.UnixDenied:           paths,
		codes.UnixShadowed:         paths,
		codes.UnixUnlinked:         paths,
		codes.OutOfMemory:          "no test can make the kernel run out of memory in bind() alone",
	}
	for _, code := range codes.Codes() {
		if made[code] == (elsewhere[code] != "") {
			t.Errorf("%s: a situation: %t; elsewhere: %q", code, made[code], elsewhere[code])
		}
	}
}
