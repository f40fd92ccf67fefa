// Package bindbucket reads the TCP sockets on some ports as bind() itself sees them: from the
// kernel's bind buckets. It sees listeners, connections, TIME_WAIT, and sockets that are only
// bound, with their reuse flags, on every kernel that it supports. The cost depends only on the
// sockets of these ports, and not on the sockets of the host.
//
// An eBPF program runs on request (BPF_PROG_RUN) under rcu_read_lock(), without a lock of the
// table. What it reads is checked before it is believed. A port whose list led to a socket of another
// port is read again. A socket that moves between addresses of the port meanwhile may be missed.
//
// It needs CAP_BPF and CAP_PERFMON to load, CAP_SYS_ADMIN to read another network namespace, and
// Linux 6.1: the hash table of a namespace (netns_ipv4.tcp_death_row.hashinfo). [New] fails where
// one of these is missing.
package bindbucket
