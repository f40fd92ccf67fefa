// Package stack reads the TCP counters and limits of one network namespace from procfs: TIME_WAIT
// sockets and their limit, listen queue overflows, and the number of ephemeral ports. It reads the
// memory and the orphans of TCP as well, which the kernel counts for the whole host.
//
// # Which namespace
//
// [Reader.Read] reports the network namespace of the calling thread. /proc/sys/net always shows
// that namespace (net_ctl_root takes the namespace of current). /proc/net does not: it is a link
// to self/net, and self is the thread group leader. A thread that moved with setns(2) would read
// the counters of the main thread next to its own limits. So the Reader reads
// /proc/thread-self/net (Linux 3.17). To read another namespace, call Read on a thread in that
// namespace. The Reader keeps nothing between calls.
//
// # Privileges
//
// None. The files are world-readable. A file that cannot be read or understood costs only its own
// values.
package stack
