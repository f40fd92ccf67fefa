// Package netlinkdiag is a client for the sock_diag netlink family of the Linux
// kernel. It streams the TCP, UDP and Unix sockets of one network namespace.
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
// Memory does not depend on the number of sockets: each Conn has one receive
// buffer, and a socket costs no allocation. One walk of the kernel's hash table
// returns the TCP sockets of both families (message type TCPDIAG_GETSOCK).
// Separate requests for IPv4 and IPv6 walk the table twice. A [PortFilter] is
// compiled to the kernel's inet_diag bytecode: the kernel copies only sockets that
// match.
//
// [Conn.DumpUnix] streams Unix sockets. There, the name of a socket costs an allocation.
//
// # Privileges and kernel
//
// The caller's own network namespace needs no privileges. Another one
// (Config.NetNS) needs CAP_SYS_ADMIN. The kernel must have inet_diag, and tcp_diag
// or udp_diag for the protocol. Unix sockets need unix_diag. Where they are modules, the kernel loads them on
// first use if the caller's namespace allows it. Without them a dump fails with a
// [*ModuleError]. Linux 6.8 and later reports bound-inactive sockets (bound, not
// listening).
//
// # Sources
//
// include/uapi/linux/inet_diag.h, include/uapi/linux/unix_diag.h, include/uapi/linux/sock_diag.h,
// net/ipv4/inet_diag.c, net/unix/diag.c and sock_diag(7). Ports and addresses are big-endian on the wire. Everything else
// has the byte order of the machine.
package netlinkdiag
