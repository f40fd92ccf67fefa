// Package sockwalk reads the TCP connections of many network namespaces in one walk through the
// kernel's table of connections. The walk passes each socket of the host once, however many
// namespaces are asked for. sock_diag and the eBPF iterator over TCP sockets walk that table once for
// each namespace.
//
// # What it sees
//
// A walk sees all sockets that have a peer: connections, half-open ones included, and TIME_WAIT. Their
// state, family and addresses are those that sock_diag shows, and it also has their reuse flags. It
// does not see listeners, which are in another table.
//
// On request it also sees the sockets that are only bound, on kernels where sock_diag does not show them,
// too. These are in the lists of the bind buckets, between the connections. To follow a list with a million
// connections takes as long as the walk, because no element is in the cache. So the walk looks at what comes
// after each connection in its list, and before the first one. It knows most neighbours without a look:
// sockets in TIME_WAIT are in memory pages of their own.
//
// The kernel joins sockets that differ in nothing that was asked for into a [Group]. So a million
// sockets in TIME_WAIT of one listener are one Group. Memory is bounded: when the kernel has no room for
// more groups, the walk pauses until they are taken. A Group can come in several parts.
//
// A namespace may have a table of its own (net.ipv4.tcp_child_ehash_entries). It is walked, too, unless it
// is large: a dump of such a namespace passes no other sockets.
//
// # Correctness
//
// Three eBPF programs run on request (BPF_PROG_RUN) under rcu_read_lock(), without a lock of the table.
// What they read is checked before it is believed: the hash of a socket against the bucket that it was
// found in, and the end of each chain. A chain that moved is read again. If a bucket cannot be read at
// all, the walk fails with [ErrIncomplete]. If the table is one that a namespace has for itself, only that
// namespace counts as not found. While sockets come and go, a socket that changes to TIME_WAIT as its
// bucket is read may be counted twice, or not at all.
//
// The last connection of a list can expire in mid-walk, so that nobody has looked behind it. The walk notices
// this, since it has not seen the end of the list then, and [Result.Bound] is false. A socket that is only
// bound is missed if the connection before it in the list goes in mid-walk, other than as the oldest one of
// the list: one that a new connection takes over, for example.
//
// # Cost
//
// A run takes some milliseconds at most, and then gives the CPU back. A walk of an empty table of 262,144
// buckets takes about 0.3 ms: two thirds of what a sock_diag dump of IPv4 and one of IPv6 take together. With many sockets it takes
// a quarter to half the CPU time of a loop that receives a dump and looks at nothing.
//
// # Privileges and kernel
//
// [New] needs CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN, in the initial user namespace, kernel BTF
// (CONFIG_DEBUG_INFO_BTF), and Linux 6.1: bpf_loop() and the place of the table in struct net. New
// walks once, and fails where the table does not look as it should. [Walker.Walk] needs no privilege,
// also to see other namespaces, except CAP_BPF before Linux 5.19 where
// kernel.unprivileged_bpf_disabled is not 0.
package sockwalk
