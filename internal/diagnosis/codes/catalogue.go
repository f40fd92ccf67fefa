// Package codes has the codes of diagnoses, and what is always true of each.
package codes

import "slices"

// An Entry is what is always true of a code.
type Entry struct {
	Code Code
	// Short says in one sentence what it means, where nothing else is known: in alerts.
	Short string
	// Remedy is what to do, in sentences.
	Remedy string
	// Means and See are for docs/diagnoses.md: what happened, and how to see it by hand. PORT
	// stands for the port.
	Means, See string
}

func (c Code) entry() Entry {
	for _, e := range Catalogue() {
		if e.Code == c {
			return e
		}
	}
	return Entry{Code: c}
}

// Short says in one sentence what the code means.
func (c Code) Short() string { return c.entry().Short }

// Remedy says what to do, where nothing else is known.
func (c Code) Remedy() string { return c.entry().Remedy }

const (
	seeListeners   = "As root and in the network namespace of the port, `ss -Htlnp 'sport = :PORT'` lists the listeners and their processes."
	seeConnections = "`ss -Htanp 'sport = :PORT'` lists the connections, their peers and their processes."
)

// Catalogue returns what there is to say of each code, in the order of the codes.
func Catalogue() []Entry {
	return slices.Concat(listeners(), sockets(), unixSockets(), exhausted(), udp(), calls())
}

func listeners() []Entry {
	return []Entry{
		{
			OwnListener, "The server's own first listener has the port.",
			"Remove one of the two listen addresses from the configuration, or set IPV6_V6ONLY on the socket that listens on `::`.",
			"The process that failed to bind already listens on the port. A listener on `::` without IPV6_V6ONLY covers IPv4 too, so a second bind to `0.0.0.0` fails. Or the same address is configured twice. SO_REUSEADDR does not help against a listener.",
			seeListeners + " `sysctl net.ipv6.bindv6only` is the default of IPV6_V6ONLY.",
		},
		{
			InheritedListener, "A process that inherited the listening socket of a server that is gone still has it open.",
			"End the process that inherited the socket. Then open the server's socket with SOCK_CLOEXEC, so that its children do not inherit it.",
			"The server that opened the socket has ended. A helper or child that it started still has the socket open, so the socket still listens, and often nobody accepts the connections. If the exporter had seen the server before, it names it. Otherwise it goes by what the kernel shows, with eBPF only: nobody who has the socket open has opened it (the file keeps the credentials of its opener), their user is the opener's, and nobody waits for its connections in accept(), poll() or epoll. A server that got its socket from another process, and accepts nothing for a moment because it is full, looks the same. The exporter looks again after 10 s.",
			seeListeners + " `ls -l /proc/PID/fd` shows the inherited socket.",
		},
		{
			ReusePortOtherUser, "A listener of another user shares the port with sockets of its own user only.",
			"Run both servers as the same user, or use another port.",
			"Both sockets set SO_REUSEPORT, but their users differ. The kernel lets sockets share a port by SO_REUSEPORT only if they have the same effective user id.",
			"`ss -Htlnpe 'sport = :PORT'` shows the uid of each listener (0 is not shown).",
		},
		{
			ReusePortMissing, "Only one of the two servers sets SO_REUSEPORT.",
			"Set SO_REUSEPORT on every socket that shares the port, before bind().",
			"Sockets share a port by SO_REUSEPORT only if all of them set it before bind().",
			seeListeners + " `sockstate_tcp_listener_reuseport` shows the flag.",
		},
		{
			OtherListener, "Another program listens on the port.",
			"Stop the other program, or use another port or address.",
			"A socket of another process listens on the address, or on a wildcard address that covers it. SO_REUSEADDR does not help against a listener. A listener that no process shows is the kernel's own (NFS), registered with io_uring alone, on its way through a Unix socket (SCM_RIGHTS), or of a process that a security module hides. The uid of the socket (`ss -Htlne`; 0 is not shown) is then the only trace.",
			seeListeners,
		},
		{
			SecondListen, "Another socket that is bound to the port was the first to listen.",
			"Stop one of the two servers.",
			"With SO_REUSEADDR, two sockets can be bound to one port as long as neither listens. The second listen() fails. Go and most frameworks bind and listen in one step, so this needs two servers that start at the same moment. The diagnosis is `own_listener` if both sockets are of one process.",
			seeListeners,
		},
	}
}

func sockets() []Entry {
	const reserve = "Reserve the port, so that the kernel does not choose it for a client: add it to net.ipv4.ip_local_reserved_ports."
	return []Entry{
		{
			SelfConnection, "A client is connected to itself on the port.",
			"Restart the client that is connected to itself. The port then stays in TIME_WAIT for 60 s, and the bind works after that. " + reserve,
			"A client on this host connected again and again to the port while nothing listened there. Once, the kernel chose the same port as its local one, and the connection met itself. It stays until the client closes it.",
			seeConnections + " The local and the peer address are the same.",
		},
		{
			OutgoingConnection, "An outgoing connection uses the port as its source port.",
			"Wait until the connection is closed, or end its process. The bind works then, or 60 s later if this side closes it first (TIME_WAIT). SO_REUSEADDR does not help. " + reserve,
			"The port lies in net.ipv4.ip_local_port_range, or a client bound to it. The kernel gave it to a connection that a process on this host opened. Such a connection does not have SO_REUSEADDR, so the flag does not help the server.",
			seeConnections + " `sysctl net.ipv4.ip_local_port_range net.ipv4.ip_local_reserved_ports` shows which ports the kernel chooses from.",
		},
		{
			AcceptedConnection, "A connection that the old server accepted is still open.",
			"Set SO_REUSEADDR before bind(): then open connections do not block the port. Connections that were opened without it block until they are closed.",
			"The server is gone, but a process, often a child of the server, still has one of its connections open. In CLOSE_WAIT the peer has closed it, and the process here has not: such a connection ends with its process as soon as the peer confirms that, without TIME_WAIT. So nobody knows before a restart whether it would work at once: where a peer does not answer any more, the kernel tries for some minutes (LAST_ACK).",
			seeConnections,
		},
		{
			BoundOnly, "A socket is bound to the port and does not listen.",
			"Find out why the process has bound the port and does not listen. If both sockets set SO_REUSEADDR, the bind works.",
			"A process has bound a socket to the port and neither listens nor connects. It may be a server that is about to listen, a program that reserves the port, or a client that named its port: it keeps the port after its connection was reset, until it closes the socket.",
			"`ss -HtanpB 'sport = :PORT'` lists bound sockets (iproute2 6.8 or later, Linux 6.8 or later).",
		},
		{
			Closing, "Connections that the old server closed still wait for their peers.",
			"Set SO_REUSEADDR before bind(): then such connections do not block the port. Those that were opened without it end by timers of the kernel.",
			"The server is gone, and the kernel still closes its connections: in FIN_WAIT1, CLOSING and LAST_ACK it repeats the last segment until the peer confirms it, or gives up after some retransmissions (net.ipv4.tcp_orphan_retries). In FIN_WAIT2 it waits for the peer to close (net.ipv4.tcp_fin_timeout). If the peer closes meanwhile, 60 s of TIME_WAIT follow.",
			"`ss -Htano 'sport = :PORT'` lists the connections and their timers.",
		},
		{
			TimeWait, "Connections of the old server are in TIME_WAIT, and the new socket does not set SO_REUSEADDR.",
			"Set SO_REUSEADDR before bind().",
			"The side that closes a TCP connection first keeps it in TIME_WAIT for 60 s. bind() to its port fails meanwhile, unless the new socket and the old one both set SO_REUSEADDR. A connection has the flag of the listener that accepted it.",
			"`ss -Htano state time-wait 'sport = :PORT'` lists them and the time that each has left.",
		},
		{
			TimeWaitOldFlags, "Connections in TIME_WAIT were opened before the server set SO_REUSEADDR.",
			"Wait until they are gone. From the next restart on the bind works at once.",
			"The new socket sets SO_REUSEADDR, but the connections in TIME_WAIT do not have it: their listener did not set it. This happens at the first restart after the server was corrected.",
			"`ss -Htano state time-wait 'sport = :PORT'` lists them and the time that each has left.",
		},
	}
}

func exhausted() []Entry {
	return []Entry{
		{
			PortsExhausted, "No ephemeral port is free for the address.",
			"Widen net.ipv4.ip_local_port_range, let the clients keep connections open, or give them more addresses. Clients that bind to port 0 before they connect can set IP_BIND_ADDRESS_NO_PORT: then each destination has all ports.",
			"A bind to port 0 asks for any free port. All ports of net.ipv4.ip_local_port_range that are not reserved are taken on the address. A port that a socket was bound to serves this socket only. So clients that bind to port 0, or to an address, before they connect use up the ports for all destinations: then connect() without a bind finds no port either. The sentence names the processes that have most of them, by a sample of 64 sockets after the call.",
			"`ss -HtanB | wc -l` and `ss -Htan | wc -l` against `sysctl net.ipv4.ip_local_port_range net.ipv4.ip_local_reserved_ports`.",
		},
		{
			PortsExhaustedForSocket, "No port of the socket's own range (IP_LOCAL_PORT_RANGE) is free.",
			"Widen the range that the program sets, or let it close sockets.",
			"The program limits the socket to some ports with IP_LOCAL_PORT_RANGE. Other sockets of the host may still find free ports.",
			"The documentation of the program says where the range is set.",
		},
		{
			PortsExhaustedForDest, "Every local port is in use for one destination.",
			"Let the clients keep connections open, add addresses or ports on either side, or widen net.ipv4.ip_local_port_range.",
			"Each connection from one local address to one destination, an address and port, needs a local port of its own. connect() returned EADDRNOTAVAIL because all are in use, many of them in TIME_WAIT. Other destinations still work. If bound sockets have the ports instead, the diagnosis is `ports_exhausted`. The exporter tells them apart on Linux 6.1 and later, by a look at some of the ports after the call.",
			"`ss -Htan dst ADDRESS:PORT | wc -l` against `sysctl net.ipv4.ip_local_port_range`.",
		},
	}
}

func calls() []Entry {
	return []Entry{
		{
			AddressMissing, "The address is not one of this network namespace.",
			"Configure the address first. net.ipv4.ip_nonlocal_bind or net.ipv6.ip_nonlocal_bind, or IP_FREEBIND, allows a bind before the address is there.",
			"No network device has the address: it is not configured yet, or it is the address of another host or network namespace. Or its device is down, and it is an IPv6 address; the sentence says so. It also names a device on which IPv6 is disabled: such a device has no IPv6 addresses.",
			"`ip address` lists the addresses, and which devices are down.",
		},
		{
			AddressTentative, "The IPv6 address is tentative.",
			"Start the server after duplicate address detection, which takes some seconds (network-online.target waits for it), or set IPV6_FREEBIND. If `ip address` says dadfailed, another host has the address.",
			"The kernel checks whether another host has the new IPv6 address. Until then nothing can bind to it. It does not begin before the device has a carrier. If another host has the address (`dadfailed`), it stays unusable.",
			"`ip -6 address show tentative` lists such addresses.",
		},
		{
			FamilyDisabled, "IPv6 is disabled.",
			"Set net.ipv6.conf.all.disable_ipv6 and that of the device to 0, or remove the IPv6 address from the server's configuration.",
			"The sysctl disable_ipv6 is set for the device that could have the address: `lo` for `::1`, otherwise all others. It has no IPv6 addresses then. A bind to `::` still works.",
			"`sysctl -a -r 'net.ipv6.conf.*.disable_ipv6'`",
		},
		{
			PortPrivileged, "The port needs a privilege that the process lacks.",
			"Give the process CAP_NET_BIND_SERVICE, pass it the socket, or lower net.ipv4.ip_unprivileged_port_start.",
			"Ports below net.ipv4.ip_unprivileged_port_start (1024 by default) need CAP_NET_BIND_SERVICE in the user namespace that owns the network namespace. The kernel answers EACCES. The eBPF program reads the setting and the capability as the call fails.",
			"`sysctl net.ipv4.ip_unprivileged_port_start`, and `grep CapEff /proc/PID/status`.",
		},
		{
			DeniedByPolicy, "A security module or a BPF program refused the call.",
			"Look into the audit log (`ausearch -m avc`, `journalctl -k`), and into the sandbox of the unit: SocketBindDeny=, Landlock.",
			"SELinux, AppArmor, Smack or Landlock, or a BPF program of the process's cgroup (systemd's SocketBindAllow=) refused the call: EACCES although the process may bind to the port, or EPERM. A seccomp filter refuses a call before the kernel runs it, so the exporter does not see such failures.",
			"`journalctl -k | grep -i denied`, `bpftool cgroup tree`.",
		},
		{
			InvalidCall, "The program's call is wrong.",
			"Correct the program: the address must be of the socket's family, and a socket can be bound only once.",
			"The kernel refuses the call whatever else is on the host: EINVAL for a socket that is bound already, EAFNOSUPPORT for an address of another family.",
			"`strace -e trace=network -p PID`",
		},
		{
			DeviceMissing, "The network device of the address does not exist.",
			"Start the server after the device exists, or correct the scope of the address.",
			"A link-local IPv6 address needs a device (`fe80::1%eth0`), and there is none with this index.",
			"`ip link`",
		},
		{
			OutOfMemory, "The kernel was short of memory.",
			"Look into the kernel log for the reason.",
			"The kernel could not allocate what the call needs (ENOBUFS or ENOMEM).",
			"`journalctl -k`, `/proc/net/sockstat`",
		},
		{
			SplitPort, "IPv4 and IPv6 of the port are in different hands, or one of them is missing.",
			"Decide which server is to have the port, stop the other one or move it to another port, and restart the first, so that it binds both families.",
			"Many servers bind `0.0.0.0` and `::` apart and go on if one of the two fails. Then half of the clients reach another server, or none, while the unit is active and its log is quiet. Several owners on different addresses that are no wildcards are no split port, nor are several processes of one unit.",
			seeListeners + " `sockstate_tcp_port_split` is 1 as long as it lasts. Of a UDP port, `ss -Hulnp 'sport = :PORT'` lists the sockets, and the metric is `sockstate_udp_port_split`.",
		},
		{
			NoReuseAddr, "The server listens without SO_REUSEADDR.",
			"Set SO_REUSEADDR before bind().",
			"Nothing is wrong yet. But each connection that the server closes first stays in TIME_WAIT for 60 s, and blocks a restart meanwhile.",
			"`sockstate_tcp_listener_reuseaddr` shows the flag.",
		},
		udpShared(),
		{
			Unknown, "The exporter could not see why the call failed.",
			"",
			"The blocking socket was gone before the exporter could look, or the exporter lacks what it needs to see it. /failures and the log say what was missing.",
			"`ss -Htanp 'sport = :PORT'` shows what is on the port now.",
		},
	}
}
