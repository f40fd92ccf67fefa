package diagnosis

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/sock"
)

const (
	no, yes, unknown = bindrule.No, bindrule.Yes, bindrule.FlagUnknown
	port             = 4840
)

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

// on is a socket in a state on an address.
func on(state sock.State, addr string, n uint64, reuseAddr bindrule.Flag) Blocker {
	return Blocker{Socket: bindrule.Socket{
		State: state, Addr: ip(addr), Count: n, ReuseAddr: reuseAddr, ReusePort: no, UID: bindrule.UIDOf(1000),
	}}
}

func waiting(n uint64, reuseAddr bindrule.Flag, left time.Duration) Blocker {
	b := on(sock.StateTimeWait, "127.0.0.1", n, reuseAddr)
	b.Kind, b.Expires, b.UID = sock.KindTimeWait, left, bindrule.UID{}
	return b
}

func connected(state sock.State, peer string, reuseAddr bindrule.Flag) Blocker {
	b := on(state, "127.0.0.1", 1, reuseAddr)
	b.Peer, b.Held = netip.MustParseAddrPort(peer), true
	return b
}

func (b Blocker) with(change func(*Blocker)) Blocker {
	change(&b)
	return b
}

// inUse are the facts of a bind of opcua-server to 0.0.0.0:4840 that failed.
func inUse(reuseAddr, reusePort bindrule.Flag, blockers ...Blocker) Facts {
	return Facts{
		Errno: syscall.EADDRINUSE, Port: port, PortKnown: true, Process: "opcua-server",
		Request:  bindrule.Request{Addr: ip("0.0.0.0"), ReuseAddr: reuseAddr, ReusePort: reusePort, UID: bindrule.UIDOf(1000)},
		Blockers: blockers, Seen: AtFailure,
		Host: Host{UnprivilegedPortStart: -1, LocalPorts: sock.PortRange{First: 32768, Last: 60999}},
	}
}

func but(f Facts, change func(*Facts)) Facts {
	change(&f)
	return f
}

// at makes a bind to an address, of which this is known.
func at(addr string, is sock.Address) func(*Facts) {
	return func(f *Facts) { f.Request.Addr, f.Host.Address = ip(addr), is }
}

// connecting makes a connect() that found no port.
func connecting(taken Taken) func(*Facts) {
	return func(f *Facts) { f.Call, f.Request.Addr, f.Port, f.Host.Taken = Connect, ip("192.0.2.1"), 443, taken }
}

func TestDiagnoses(t *testing.T) {
	nginx := owner.Owner{Process: "nginx", PID: 7, Unit: "nginx.service", Processes: 1}
	helper := owner.Owner{Process: "helper", PID: 8, Processes: 1}
	held := func(by owner.Owner) func(*Blocker) { return func(b *Blocker) { b.Holder, b.Held = by, true } }
	listen := on(sock.StateListen, "0.0.0.0", 1, no)
	errno := func(e syscall.Errno, change func(*Facts)) Facts {
		f := inUse(no, no)
		f.Errno = e
		change(&f)
		return f
	}
	for _, tt := range []struct {
		name     string
		facts    Facts
		code     codes.Code
		end      End
		sentence string
		remedy   string // its beginning
	}{
		{"TIME_WAIT, nobody has the flag", inUse(no, no, waiting(212, no, 42_300*time.Millisecond)), codes.TimeWait, End{EndTime, 42_300 * time.Millisecond},
			"212 connections are in TIME_WAIT, the last one for 43 s; they were opened without SO_REUSEADDR, and the new socket lacks it too",
			"Set SO_REUSEADDR before bind(). This time also wait 43 s"},
		{"TIME_WAIT, the binder alone lacks the flag", inUse(no, no, waiting(1, yes, time.Second)), codes.TimeWait, End{EndTime, time.Second},
			"1 connection is in TIME_WAIT, for 1 s; it was opened with SO_REUSEADDR, but the new socket lacks it",
			"Set SO_REUSEADDR before bind(): then the bind works at once."},
		{"the first restart after a fix", inUse(yes, no, waiting(2, no, time.Minute)), codes.TimeWaitOldFlags, End{EndTime, time.Minute},
			"2 connections are in TIME_WAIT, the last one for 60 s; the new socket sets SO_REUSEADDR, but they were opened without SO_REUSEADDR",
			"Wait 60 s."},
		{"some with the flag and some without", inUse(no, no, waiting(1, no, time.Second), waiting(1, yes, 2*time.Second)), codes.TimeWait, End{EndTime, 2 * time.Second},
			"2 connections are in TIME_WAIT, the last one for 2 s; the new socket lacks SO_REUSEADDR",
			"Set SO_REUSEADDR before bind(). This time also wait 1 s"},
		{"TIME_WAIT of an outgoing connection", inUse(yes, no, waiting(1, no, time.Second).with(func(b *Blocker) { b.Outgoing = true })), codes.OutgoingConnection, End{EndTime, time.Second},
			"1 outgoing connection (1 TIME_WAIT) uses the port as source port",
			"Wait 1 s. SO_REUSEADDR does not help: the connection does not have it. Reserve the port, so that the kernel does not choose it for a client: add 4840 to net.ipv4.ip_local_reserved_ports."},

		{"a listener", inUse(no, no, listen.with(held(nginx))), codes.OtherListener, UntilClosed(),
			"nginx (pid 7, nginx.service) listens on 0.0.0.0:4840", "Stop nginx (pid 7, nginx.service), or use another port or address."},
		{"a listener of nobody who is known", inUse(yes, no, listen), codes.OtherListener, UntilClosed(),
			"a process of uid 1000 listens on 0.0.0.0:4840", "Stop the other program"},
		{"a listener that no process shows", inUse(yes, no, listen.with(held(owner.Owner{Absence: owner.NoProcess}))), codes.OtherListener, UntilClosed(),
			"a socket that no process shows listens on 0.0.0.0:4840", "The socket is the kernel's own (NFS)"},
		{"two listeners", inUse(no, no, listen.with(held(nginx)), on(sock.StateListen, "::", 1, no).with(held(helper))), codes.OtherListener, UntilClosed(),
			"helper (pid 8) and nginx (pid 7, nginx.service) listen on 0.0.0.0:4840, [::]:4840", "Stop helper (pid 8) and nginx (pid 7, nginx.service)"},
		{"its own dual-stack listener", inUse(yes, no, on(sock.StateListen, "::", 1, yes).with(func(b *Blocker) { b.Own = true })), codes.OwnListener, UntilClosed(),
			"opcua-server itself listens on [::]:4840 already, and that socket covers IPv4 too (no IPV6_V6ONLY)", "Set IPV6_V6ONLY on the socket that listens on ::"},
		{"the same address twice", inUse(yes, no, listen.with(func(b *Blocker) { b.Own = true })), codes.OwnListener, UntilClosed(),
			"opcua-server itself listens on 0.0.0.0:4840 already", "Remove one of the two listen addresses from the configuration: they are the same."},
		{"an inherited listener", inUse(yes, no, listen.with(held(helper)).with(func(b *Blocker) { b.Opener = owner.Owner{Process: "opcua-server", PID: 3} })), codes.InheritedListener, UntilClosed(),
			"helper (pid 8) still has the listening socket on 0.0.0.0:4840 open that opcua-server (pid 3) opened, which is gone", "End helper (pid 8)"},
		{"an inherited listener of a server that nobody has seen", inUse(yes, no, listen.with(held(owner.Owner{Process: "helper", PID: 8, Processes: 1, Inherited: true}))), codes.InheritedListener, UntilClosed(),
			"helper (pid 8) has the listening socket on 0.0.0.0:4840 open, but has not opened it, and nobody waits for its connections: whoever opened it does not have it any more", "End helper (pid 8) if it does not serve the port, and"},
		{"SO_REUSEPORT of another user", inUse(no, yes, listen.with(func(b *Blocker) { b.ReusePort, b.UID = yes, bindrule.UIDOf(33) })), codes.ReusePortOtherUser, UntilClosed(),
			"a process of uid 33 listens on 0.0.0.0:4840 with SO_REUSEPORT as uid 33, and the new socket belongs to uid 1000", "Run both servers as the same user"},
		{"the listener does not share", inUse(no, yes, listen.with(held(nginx))), codes.ReusePortMissing, UntilClosed(),
			"nginx (pid 7, nginx.service) listens on 0.0.0.0:4840; the new socket sets SO_REUSEPORT, and that listener does not", "Set SO_REUSEPORT on every socket"},
		{"listen() loses", but(inUse(yes, no, listen.with(held(nginx))), func(f *Facts) { f.Call = Listen }), codes.SecondListen, UntilClosed(),
			"nginx (pid 7, nginx.service) listens on 0.0.0.0:4840", "Stop one of the two servers."},

		{"an outgoing connection", inUse(yes, no, connected(sock.StateEstablished, "192.0.2.1:443", no).with(held(helper)).with(func(b *Blocker) { b.Outgoing = true })), codes.OutgoingConnection, UntilClosed(),
			"an outgoing connection of helper (pid 8) from 127.0.0.1:4840 to 192.0.2.1:443 (ESTABLISHED) uses the port as its source port",
			"Wait until the connection is closed, or end helper (pid 8). The bind works then, or 60 s later if this side closes first (TIME_WAIT). SO_REUSEADDR does not help: the connection does not have it. Reserve the port, so that the kernel does not choose it for a client: add 4840 to net.ipv4.ip_local_reserved_ports."},
		{"seen afterwards, and nobody saw who opened it", but(inUse(no, no, connected(sock.StateEstablished, "192.0.2.1:443", no)), func(f *Facts) { f.Seen = Afterwards }), codes.Unknown, UntilClosed(),
			"1 connection on the port is open (1 ESTABLISHED, peer 192.0.2.1:443); it was opened without SO_REUSEADDR, and the new socket lacks it too", "The bind works once they are closed."},
		{"a client's port by its range", but(inUse(yes, no, connected(sock.StateEstablished, "192.0.2.1:443", no)), func(f *Facts) { f.Host.LocalPorts = sock.PortRange{First: 1024, Last: 5000} }), codes.OutgoingConnection, UntilClosed(),
			"an outgoing connection from 127.0.0.1:4840 to 192.0.2.1:443 (ESTABLISHED) uses the port as its source port", "Wait until the connection is closed. The bind works then"},
		{"TIME_WAIT on a port of the range, of a server that nobody saw", but(inUse(no, no, waiting(1, yes, time.Second)), func(f *Facts) { f.Host.LocalPorts = sock.PortRange{First: 1024, Last: 5000} }), codes.TimeWait, End{EndTime, time.Second},
			"1 connection is in TIME_WAIT, for 1 s; it was opened with SO_REUSEADDR, but the new socket lacks it", "Set SO_REUSEADDR before bind(): then the bind works at once."},
		{"the same without the flag", but(inUse(no, no, waiting(1, no, time.Second)), func(f *Facts) { f.Host.LocalPorts = sock.PortRange{First: 1024, Last: 5000} }), codes.TimeWait, End{EndTime, time.Second},
			"1 connection is in TIME_WAIT, for 1 s; it was opened without SO_REUSEADDR, and the new socket lacks it too", "Set SO_REUSEADDR before bind(). This time also wait 1 s"},
		{"connected to itself", inUse(yes, no, connected(sock.StateEstablished, "127.0.0.1:4840", no).with(held(helper))), codes.SelfConnection, UntilClosed(),
			"helper (pid 8) is connected to itself on 127.0.0.1:4840", "Restart helper (pid 8). The port then stays in TIME_WAIT for 60 s, and the bind works after that. Reserve the port"},
		{"an accepted connection", inUse(no, no, connected(sock.StateCloseWait, "192.0.2.1:5555", no).with(held(helper))), codes.AcceptedConnection, UntilClosed(),
			"1 connection that the old server accepted is still open (1 CLOSE_WAIT, peer 192.0.2.1:5555), held by helper (pid 8); it was opened without SO_REUSEADDR, and the new socket lacks it too",
			"Set SO_REUSEADDR before bind(). This time also wait until they are closed"},
		{"an accepted connection in the ephemeral range of a server", but(inUse(no, no, connected(sock.StateEstablished, "192.0.2.1:5555", yes)), func(f *Facts) {
			f.Host.Listened, f.Host.LocalPorts = true, sock.PortRange{First: 1024, Last: 5000}
		}), codes.AcceptedConnection, UntilClosed(),
			"1 connection that the old server accepted is still open (1 ESTABLISHED, peer 192.0.2.1:5555); it was opened with SO_REUSEADDR, but the new socket lacks it",
			"Set SO_REUSEADDR before bind(): then the bind works at once."},
		{"an orphan that the kernel closes", inUse(no, no, on(sock.StateLastAck, "127.0.0.1", 1, no)), codes.Closing, End{Kind: EndKernel},
			"1 connection of the old server waits for its peer (1 LAST_ACK); it was opened without SO_REUSEADDR, and the new socket lacks it too",
			"Set SO_REUSEADDR before bind(). This time also wait until the kernel gives the connections up"},
		{"FIN_WAIT2 of a peer that lives", inUse(yes, no, on(sock.StateFinWait2, "127.0.0.1", 1, no).with(func(b *Blocker) { b.Kind, b.Expires = sock.KindTimeWait, 20*time.Second })), codes.Closing, End{EndAtLeast, 20 * time.Second},
			"1 connection of the old server waits for its peer (1 FIN_WAIT2); the new socket sets SO_REUSEADDR, but it was opened without SO_REUSEADDR",
			"Wait at least 20 s (if the peer closes meanwhile, 60 s of TIME_WAIT follow)."},
		{"bound, not listening", inUse(no, no, on(sock.StateClose, "0.0.0.0", 1, no).with(held(helper))), codes.BoundOnly, UntilClosed(),
			"helper (pid 8) has bound 0.0.0.0:4840 and does not listen; it was opened without SO_REUSEADDR, and the new socket lacks it too", "Find out why"},
		{"several kinds", inUse(no, no, waiting(7, no, time.Minute), connected(sock.StateEstablished, "192.0.2.1:5555", no).with(held(helper))), codes.AcceptedConnection, UntilClosed(),
			"1 connection that the old server accepted is still open (1 ESTABLISHED, peer 192.0.2.1:5555), held by helper (pid 8); it was opened without SO_REUSEADDR, and the new socket lacks it too; 7 other sockets (7 TIME_WAIT) block it too",
			"Set SO_REUSEADDR before bind(). This time also wait until they are closed"},

		{"no port is free", but(inUse(no, no), func(f *Facts) { f.Port = 0 }), codes.PortsExhausted, UntilClosed(),
			"no port of net.ipv4.ip_local_port_range is free for this address (32768-60999)", "Widen net.ipv4.ip_local_port_range"},
		{"no port is free, and who has them", but(inUse(no, no), func(f *Facts) {
			f.Port = 0
			f.Host.Taken = Taken{Looked: 64, TimeWait: 1, Users: []PortUser{{nginx, 60}, {helper, 3}}}
		}), codes.PortsExhausted, UntilClosed(),
			"no port of net.ipv4.ip_local_port_range is free for this address (32768-60999); 64 sockets on them were looked at: 60 of nginx (pid 7, nginx.service), 3 of helper (pid 8), 1 in TIME_WAIT", "Widen net.ipv4.ip_local_port_range"},
		{"no port of the socket's own range", but(inUse(no, no), func(f *Facts) { f.Port, f.OwnRange = 0, true }), codes.PortsExhaustedForSocket, UntilClosed(),
			"the socket limits itself to a few ports (IP_LOCAL_PORT_RANGE), and none of them is free for this address", "Widen the range that the program sets"},
		{"one busy destination", errno(syscall.EADDRNOTAVAIL, connecting(Taken{Chosen: 3})), codes.PortsExhaustedForDest, UntilClosed(),
			"every local port (32768-60999) is in use for 192.0.2.1:443; other destinations still work", "Let the clients keep connections open"},
		{"one busy destination, and bound sockets", errno(syscall.EADDRNOTAVAIL, connecting(Taken{Bound: 2, Chosen: 1})), codes.PortsExhaustedForDest, UntilClosed(),
			"every local port (32768-60999) is in use for 192.0.2.1:443; other destinations still work, without the ports that sockets were bound to (2 of 3 that were looked at)", "Let"},
		{"bound sockets have all ports", errno(syscall.EADDRNOTAVAIL, connecting(Taken{Bound: 3})), codes.PortsExhausted, UntilClosed(),
			"sockets that were bound to a port have every local port (32768-60999), so that none is free for 192.0.2.1:443 or for another destination", "Widen"},
		{"a destination, and nobody looked", errno(syscall.EADDRNOTAVAIL, connecting(Taken{})), codes.PortsExhaustedForDest, UntilClosed(),
			"no local port (32768-60999) is free for 192.0.2.1:443", "Let the clients keep connections open"},
		{"the socket's own range, for a destination", errno(syscall.EADDRNOTAVAIL, func(f *Facts) { connecting(Taken{Chosen: 3})(f); f.OwnRange = true }), codes.PortsExhaustedForSocket, UntilChanged(),
			"the socket limits itself to a few ports (IP_LOCAL_PORT_RANGE), and none of them is free for 192.0.2.1:443", "Widen the range"},
		{"a connect() of UDP", errno(syscall.EAGAIN, func(f *Facts) { connecting(Taken{})(f); f.Protocol = sock.UDP }), codes.PortsExhausted, UntilClosed(),
			"no port of net.ipv4.ip_local_port_range is free (32768-60999)", "Widen net.ipv4.ip_local_port_range"},
		{"UDP", but(inUse(no, no), func(f *Facts) { f.Protocol = sock.UDP }), codes.UDPInUse, UntilClosed(), "another UDP socket has the port, and the exporter has not looked for it", "Stop the other program"},

		{"no such address", errno(syscall.EADDRNOTAVAIL, func(f *Facts) { f.Request.Addr, f.Host.Address.State = ip("192.0.2.9"), sock.AddressAbsent }), codes.AddressMissing, UntilChanged(),
			"no network device of this network namespace has the address 192.0.2.9", "Configure the address before the server starts, for example with After=network-online.target in the unit. net.ipv4.ip_nonlocal_bind=1"},
		{"no such IPv6 address", errno(syscall.EADDRNOTAVAIL, func(f *Facts) { f.Request.Addr, f.Host.Address.State = ip("2001:db8::9"), sock.AddressAbsent }), codes.AddressMissing, UntilChanged(),
			"no network device of this network namespace has the address 2001:db8::9", "Configure the address before the server starts, for example with After=network-online.target in the unit. net.ipv6.ip_nonlocal_bind=1"},
		{"IPv6 is disabled on a device", errno(syscall.EADDRNOTAVAIL, at("2001:db8::9", sock.Address{State: sock.AddressAbsent, Device: "d0", Disabled: 2})), codes.AddressMissing, UntilChanged(),
			"no network device of this network namespace has the address 2001:db8::9; IPv6 is disabled on d0 and 1 more",
			"Configure the address before the server starts, for example with After=network-online.target in the unit. If the address belongs on d0, set net.ipv6.conf.d0.disable_ipv6 to 0 first. net.ipv6.ip_nonlocal_bind=1"},
		{"nothing is known of the address", errno(syscall.EADDRNOTAVAIL, func(f *Facts) { f.Request.Addr = ip("192.0.2.9") }), codes.AddressMissing, UntilChanged(),
			"the address 192.0.2.9 cannot be bound to: no device has it", "Configure the address before"},
		{"nothing is known of the IPv6 address", errno(syscall.EADDRNOTAVAIL, func(f *Facts) { f.Request.Addr = ip("2001:db8::9") }), codes.AddressMissing, UntilChanged(),
			"the address 2001:db8::9 cannot be bound to: no device has it, or it is tentative", "Configure the address before"},
		{"the address has come meanwhile", errno(syscall.EADDRNOTAVAIL, at("192.0.2.9", sock.Address{State: sock.AddressUsable})), codes.AddressMissing, UntilChanged(),
			"the address 192.0.2.9 was not there yet; a bind works now", "Configure the address before"},
		{"the IPv6 address has come meanwhile", errno(syscall.EADDRNOTAVAIL, at("2001:db8::9", sock.Address{State: sock.AddressUsable})), codes.AddressMissing, UntilChanged(),
			"the address 2001:db8::9 was not there yet, or it was tentative; a bind works now", "Configure the address before"},
		{"nonlocal binds were allowed meanwhile", errno(syscall.EADDRNOTAVAIL, at("192.0.2.9", sock.Address{State: sock.AddressAbsent, Nonlocal: true})), codes.AddressMissing, UntilChanged(),
			"no network device of this network namespace has the address 192.0.2.9, but net.ipv4.ip_nonlocal_bind is 1 now, so that a bind works",
			"Configure the address before the server starts, for example with After=network-online.target in the unit."},
		{"a device that is down", errno(syscall.EADDRNOTAVAIL, at("2001:db8::9", sock.Address{State: sock.AddressDown, Device: "eth1"})), codes.AddressMissing, UntilChanged(),
			"2001:db8::9 is an address of eth1, which is down", "Set the device up before the server starts: ip link set eth1 up."},
		{"a tentative address", errno(syscall.EADDRNOTAVAIL, at("2001:db8::9", sock.Address{State: sock.AddressTentative, Device: "eth1"})), codes.AddressTentative, End{},
			"2001:db8::9 on eth1 is tentative: IPv6 duplicate address detection has not finished", "Start the server after"},
		{"a duplicate address", errno(syscall.EADDRNOTAVAIL, at("2001:db8::9", sock.Address{State: sock.AddressDuplicate, Device: "e\nth"})), codes.AddressTentative, UntilChanged(),
			`another host has 2001:db8::9 too: IPv6 duplicate address detection on "e\nth" has failed (dadfailed)`, "Give one of the two hosts another address."},
		{"IPv6 is disabled", errno(syscall.EADDRNOTAVAIL, at("::1", sock.Address{State: sock.IPv6Disabled, Device: "lo"})), codes.FamilyDisabled, UntilChanged(),
			"IPv6 is disabled: net.ipv6.conf.lo.disable_ipv6 is 1, so that ::1 cannot be an address here", "Set net.ipv6.conf.lo.disable_ipv6 to 0"},
		{"IPv6 is disabled everywhere", errno(syscall.EADDRNOTAVAIL, at("2001:db8::9", sock.Address{State: sock.IPv6Disabled})), codes.FamilyDisabled, UntilChanged(),
			"IPv6 is disabled: net.ipv6.conf.all.disable_ipv6 is 1, so that 2001:db8::9 cannot be an address here", "Set net.ipv6.conf.all.disable_ipv6 to 0"},
		{"a privileged port", errno(syscall.EACCES, func(f *Facts) { f.Port, f.Host.UnprivilegedPortStart, f.Host.PrivilegeLacked = 8088, 8090, true }), codes.PortPrivileged, UntilChanged(),
			"port 8088 is below net.ipv4.ip_unprivileged_port_start (8090), and the process lacks CAP_NET_BIND_SERVICE", "Give the process the capability"},
		{"a refusal of a process that has the capability", errno(syscall.EACCES, func(f *Facts) { f.Port, f.Host.UnprivilegedPortStart = 80, 1024 }), codes.DeniedByPolicy, UntilChanged(),
			"a security module refused the call: the process has CAP_NET_BIND_SERVICE, so that it may bind to port 80", "Look into the audit log"},
		{"a refusal of an unprivileged port", errno(syscall.EACCES, func(f *Facts) { f.Port, f.Host.UnprivilegedPortStart = 80, 80 }), codes.DeniedByPolicy, UntilChanged(),
			"a security module refused the call: port 80 needs no privilege, since net.ipv4.ip_unprivileged_port_start is 80", "Look into the audit log"},
		{"a refusal without the sysctl", errno(syscall.EACCES, func(*Facts) {}), codes.Unknown, UntilChanged(),
			"the port needs CAP_NET_BIND_SERVICE (net.ipv4.ip_unprivileged_port_start), or a security module refused the call", "Look into the audit log"},
		{"EPERM", errno(syscall.EPERM, func(*Facts) {}), codes.DeniedByPolicy, UntilChanged(), "a security module, or a BPF program of the process's cgroup, refused the call", "Look"},

		{"gone", but(inUse(no, no), func(f *Facts) { f.Seen = Afterwards }), codes.Unknown, End{}, "the blocking socket was gone before the exporter could look", ""},
		{"not looked for", but(inUse(no, no), func(f *Facts) { f.Seen = NotSeen }), codes.Unknown, End{}, "the exporter has not looked for the blocking socket", ""},
		{"not all is seen", but(inUse(no, no), func(f *Facts) { f.Partial = true }), codes.Unknown, End{},
			"the exporter could not see all sockets on the port, and none of those that it saw explains the failure", ""},
		{"an error", but(inUse(no, no), func(f *Facts) { f.Err = errors.New("dump: \"no\nnetlink\x1b\"") }), codes.Unknown, End{},
			`the sockets on the port could not be seen: dump: "no\nnetlink\x1b"`, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := Of(&tt.facts)
			if d.Code != tt.code || d.End != tt.end {
				t.Errorf("got %s until %+v, want %s until %+v", d.Code, d.End, tt.code, tt.end)
			}
			if d.Sentence != tt.sentence {
				t.Errorf("got  %s\nwant %s", d.Sentence, tt.sentence)
			}
			if !strings.HasPrefix(d.Remedy, tt.remedy) || (tt.remedy == "") != (d.Remedy == "") {
				t.Errorf("remedy %q, want %q", d.Remedy, tt.remedy)
			}
		})
	}
}

func TestSeenAfterTheCall(t *testing.T) {
	f := but(inUse(no, no, waiting(1, yes, time.Second)), func(f *Facts) { f.Seen = Afterwards })
	if d := Of(&f); !strings.Contains(d.Line(), "(seen after the call). Set SO_REUSEADDR") {
		t.Errorf("got %s", d.Line())
	}
}

// Processes choose their names, but cannot add a line or a sentence.
func TestHostileNames(t *testing.T) {
	f := inUse(no, no, on(sock.StateListen, "0.0.0.0", 1, no).with(func(b *Blocker) {
		b.Holder = owner.Owner{Process: "x (pid 1) listens. Delete\n\xff", PID: 7, Unit: "a b"}
	}))
	want := `"x (pid 1) listens. Delete\n\xff" (pid 7, "a b") listens on 0.0.0.0:4840`
	if d := Of(&f); d.Sentence != want {
		t.Errorf("got  %s\nwant %s", d.Sentence, want)
	}
}

// Any user can listen on thousands of addresses.
func TestTheSentenceIsBounded(t *testing.T) {
	var blockers []Blocker
	for i := range 2000 {
		b := on(sock.StateListen, netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)}).String(), 1, no)
		b.UID, b.Holder = bindrule.UIDOf(uint32(i)), owner.Owner{Process: "p", PID: i + 1}
		blockers = append(blockers, b)
	}
	f := inUse(no, no, blockers...)
	if d := Of(&f); len(d.Line()) > 400 {
		t.Errorf("%d bytes: %.500s", len(d.Line()), d.Line())
	}
}

func TestEachCodeHasAnEntry(t *testing.T) {
	all := codes.Codes()
	if c := slices.Compact(slices.Sorted(slices.Values(all))); len(c) != len(all) {
		t.Errorf("a code has two entries: %v", all)
	}
	for i, e := range codes.Catalogue() {
		if e.Code != all[i] {
			t.Errorf("entry %d is of %s, want %s", i, e.Code, all[i])
		}
		if e.Short == "" || e.Means == "" || e.See == "" || (e.Remedy == "") != (e.Code == codes.Unknown) {
			t.Errorf("%s: %+v", e.Code, e)
		}
	}
	if !codes.OwnListener.Before(codes.TimeWait) || !codes.TimeWait.Before(codes.Unknown) || codes.Unknown.Before(codes.TimeWait) || !codes.Closing.Before("?") {
		t.Error("wrong order of codes")
	}
}

// A process that is ending has lost its executable, and with it its whole name.
func TestTheHolderOfAnOwnListenerIsTheCaller(t *testing.T) {
	f := inUse(yes, no, on(sock.StateListen, "::", 1, no).with(func(b *Blocker) {
		b.Own, b.Held, b.Holder = true, true, owner.Owner{Process: "order-backend-s", PID: 9, Processes: 1}
	}))
	f.By, f.Process = owner.Owner{Process: "order-backend-service", PID: 9, Processes: 1}, "order-backend-service"
	if d := Of(&f); d.Code != codes.OwnListener || d.Holder.Process != f.Process {
		t.Errorf("%s, holder %+v", d.Code, d.Holder)
	}
}
