// Package netlinkdiag is a client of the Linux kernel's sock_diag netlink
// family: it streams the TCP and UDP sockets of one network namespace.
//
//	c, err := netlinkdiag.Dial(nil)
//	...
//	defer c.Close()
//	for s, err := range c.Dump(ctx, netlinkdiag.Request{States: netlinkdiag.States(netlinkdiag.StateTimeWait)}) {
//		...
//	}
//
// # Cost
//
// Memory is constant however many sockets there are: one receive buffer a Conn,
// and no allocation per socket. TCP sockets of both families come in one walk of
// the kernel's hash table (message type TCPDIAG_GETSOCK), where asking for
// IPv4 and for IPv6 apart walks it twice. A [PortFilter] is compiled to the
// kernel's inet_diag bytecode: sockets that do not match are never copied.
//
// # Privileges and kernel
//
// None for the caller's own network namespace; CAP_SYS_ADMIN to enter another
// one (Config.NetNS). The kernel must have inet_diag and, by protocol, tcp_diag or
// udp_diag; they are loaded on first use where they are modules and the caller's
// namespace may load them. Without them a dump ends in a [*ModuleError].
// Bound-inactive sockets (bound, not listening) are reported by Linux 6.8 and later.
//
// # Sources
//
// include/uapi/linux/inet_diag.h, include/uapi/linux/sock_diag.h, net/ipv4/inet_diag.c
// and sock_diag(7). Ports and addresses are big-endian on the wire, everything else
// has the byte order of the machine.
package netlinkdiag
