// Package bindrule says whether bind() to a TCP or UDP port would succeed, which sockets block it
// and for how long. UDP has rules of its own: see [UDPPort]. Its input is a list of the sockets on the port. It does not ask the
// kernel: it is the kernel's rule in Go, so a caller can try flags that a program does not
// set yet. It needs no privileges.
//
// # The rule
//
// bind() to a port other than 0 checks every socket that holds the port
// (inet_csk_get_port, net/ipv4/inet_connection_sock.c). The state of a socket matters only
// where this text says so. The request conflicts with a socket, and fails with EADDRINUSE,
// when all of this is true (inet_bind_conflict):
//
//   - They are not bound to two different devices.
//   - Their addresses overlap; see below.
//   - One of the two lacks SO_REUSEADDR, or the socket listens.
//   - One of the two lacks SO_REUSEPORT, or the socket has another owner (sk_uid) than the
//     binder. A minisocket in TIME_WAIT or FIN_WAIT2 has no owner; it counts as the same.
//
// A request_sock in SYN_RECV holds no port. listen() checks again, so it fails if another
// socket listens by then.
//
// Two addresses overlap when they are equal, or when one of them is a wildcard of the same
// family. A v4-mapped address counts as IPv4. `::` without IPV6_V6ONLY is a wildcard for
// IPv4, too. The rule is not symmetric:
//
//   - A request for 0.0.0.0 conflicts with any IPv6 socket without IPV6_V6ONLY, even one
//     on ::1 (ipv4_rcv_saddr_equal does not compare addresses then). bind() to an address
//     such as ::1 sets the flag (__inet6_bind). Sockets without the flag are those that a
//     dual-stack listener accepted, and their TIME_WAIT: they block the IPv4 wildcard.
//   - A request for ::1 does not conflict with 0.0.0.0.
//
// # The shortcut
//
// The kernel keeps a summary of the binds to a port, struct inet_bind_bucket. Where the
// summary admits a request, the kernel checks no socket (sk_reuseport_match). So a bind can
// succeed that the rule forbids. Two examples:
//
//   - After a `::` listener with IPV6_V6ONLY and SO_REUSEPORT, a listener of the same owner
//     without IPV6_V6ONLY binds in spite of another owner's 0.0.0.0.
//   - A server that does not run as root binds with SO_REUSEPORT in spite of connections
//     without a process. Up to 6.12 their owner is root (sock_i_uid); in 6.18 they keep
//     their owner (sk_uid).
//
// The summary depends on sockets that are gone. So it cannot be derived from the sockets
// that exist, and only eBPF can read it. Without it, a request with SO_REUSEPORT that
// conflicts with something is Unknown. Other requests do not need it, as long as nobody
// clears SO_REUSEADDR of a bound socket.
//
// # Kernels
//
// Real binds on 6.1, 6.12 and 6.18 confirm the rule (TestAgreesWithTheKernel). What differs
// between these kernels is part of the input:
//
//   - The owner of an orphan: Socket.UID, as the sock_diag of that kernel reports it.
//   - The bucket. 6.1 sets fastreuse and FASTREUSEPORT_ANY with the first bind. 6.12 and
//     6.18 never do, because their inet_csk_update_fastreuse finds no bucket empty.
//
// One difference is only partly in the input: a request for a v4-mapped address that is no
// wildcard, where 0.0.0.0 or ::ffff:0.0.0.0 is bound. Before 6.8, sockets of both are in one
// bind2 bucket, of the family of the first. Late 6.1 passes over one of AF_INET6
// (inet_bind2_bucket_match_addr_any); early 6.1 does not. So such a request is Unknown unless
// the bucket is of AF_INET (Bucket.MappedMeetsAny). Later kernels miss neither.
//
// Before 6.8 no interface of the kernel reports sockets that are bound, and neither listen
// nor connect. There, Free may be wrong because of such a socket, and for no other reason.
//
// # UDP
//
// Real binds on 6.1, 6.12 and 6.18 confirm UDP's rule, too (TestUDPAgreesWithTheKernel). It is the same on
// all three, except for crowded slots of the hash table: see UDPPort.Crowded. There, the answer is Unknown
// if kernels might differ.
//
// # What is not in it
//
// bind() can fail for other reasons (EADDRNOTAVAIL, EACCES, EINVAL), and port 0 has its own
// rule. Sockets bound to a device of a VRF have a separate bucket unless
// net.ipv4.tcp_l3mdev_accept is set: a Port must have the sockets of one VRF only. With
// TCP_REPAIR bind() always succeeds. Connections that wait for accept() end with their
// listener; Request.ListenersAside does not leave them out. A UDP socket that has a program to choose
// between sockets (SO_ATTACH_REUSEPORT_CBPF) before it is bound shares its port with nobody.
package bindrule
