// Package stack reads the TCP counters and limits of one network namespace
// from procfs: its TIME_WAIT table against the limit, listen queue overflows,
// and the ephemeral ports it has.
//
// # Which namespace
//
// [Reader.Read] reports the network namespace of the calling thread. For
// /proc/sys/net the kernel does so by itself (net_ctl_root takes the namespace
// of current). /proc/net does not: it is a link to self/net, where self is the
// thread group leader, so a thread that went elsewhere with setns would read
// the main thread's numbers beside its own limits. The files are therefore
// read below /proc/thread-self/net (Linux 3.17). To read another namespace,
// call Read on a goroutine locked to a thread that is in it; the Reader keeps
// nothing between calls.
//
// # Privileges
//
// None. The files are world-readable, and every source that cannot be read or
// understood costs its own values only.
package stack
