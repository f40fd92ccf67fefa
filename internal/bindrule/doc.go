// Package bindrule says whether bind() to a TCP port would succeed, what is in its way
// and for how long, from a list of the port's sockets. It asks no kernel: it is the
// kernel's rule, to be read and to be tried with flags that a program does not have yet.
//
// # The rule
//
// bind() to a port other than 0 asks every socket that holds the port
// (inet_csk_get_port, net/ipv4/inet_connection_sock.c). State is no matter, but for
// what is said here. The request conflicts with a socket, and is answered EADDRINUSE,
// when all of this is so (inet_bind_conflict):
//
//   - They are not bound to two different devices.
//   - Their addresses overlap; see below.
//   - Not both have SO_REUSEADDR, or the socket listens.
//   - Not both have SO_REUSEPORT, or the socket has another owner (sk_uid, compared
//     with the binder's; a minisocket in TIME_WAIT or FIN_WAIT2 has none, and passes).
//
// A request_sock in SYN_RECV holds no port. listen() asks the same once more, so it
// fails where another socket listens by then.
//
// Addresses overlap when they are equal, v4-mapped ones being IPv4, or one of
// them is a wildcard of the same family. `::` without IPV6_V6ONLY is a wildcard for
// IPv4, too. It is not quite symmetric:
//
//   - A request for 0.0.0.0 conflicts with any IPv6 socket without IPV6_V6ONLY, be
//     its address ::1 (ipv4_rcv_saddr_equal looks at no address then). bind() to such
//     an address sets the flag (__inet6_bind), so this is about the connections, and
//     their TIME_WAIT, of a dual-stack listener: they block the IPv4 wildcard.
//   - A request for ::1 does not conflict with 0.0.0.0.
//
// # The shortcut
//
// The kernel keeps a summary of the port's binds, struct inet_bind_bucket. Where that
// admits a request no socket is asked (sk_reuseport_match), so a bind may
// succeed that the rule forbids: after a `::` listener with IPV6_V6ONLY and
// SO_REUSEPORT, one of the same owner without IPV6_V6ONLY binds over a foreign 0.0.0.0;
// a server that does not run as root binds with SO_REUSEPORT over connections without
// a process, which up to 6.12 are root's (sock_i_uid; they keep their
// owner in 6.18, by sk_uid). The summary goes back to sockets that are gone, so
// it cannot be told from those that are there, and no interface but eBPF shows it.
// Without it, a request with SO_REUSEPORT that conflicts with something is Unknown;
// others do not need it as long as nobody clears SO_REUSEADDR of a socket that is bound.
//
// # Kernels
//
// Proved against 6.1, 6.12 and 6.18 by real binds (TestAgreesWithTheKernel). What
// differs between them is in the input: whose an orphan is (Socket.UID, as that kernel's
// sock_diag shows it), and how the bucket is kept (6.1 sets fastreuse and
// FASTREUSEPORT_ANY with the first bind; 6.12 and 6.18, whose inet_csk_update_fastreuse
// finds no bucket empty, never do). Except where a
// v4-mapped address is bound that is no wildcard, and 0.0.0.0 or ::ffff:0.0.0.0 is there: late
// 6.1 does not see the second (inet_bind2_bucket_match_addr_any), and does not always see the
// first (seen on one port of a random run); later kernels see both. Such a
// request is Unknown.
//
// A socket that is bound and neither listens nor connects is shown by no interface of
// a kernel before 6.8: there, Free may be wrong by such a socket, and only by it.
//
// # What is not in it
//
// bind() has more reasons to fail (EADDRNOTAVAIL, EACCES, EINVAL), and port 0 a rule of
// its own. Sockets bound to a device of a VRF have a bucket apart unless
// net.ipv4.tcp_l3mdev_accept is set: give a Port those of one VRF. TCP_REPAIR binds over
// anything. Connections that wait for accept() end with their listener, which
// Request.ListenersAside does not know.
package bindrule
