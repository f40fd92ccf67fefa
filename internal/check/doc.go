// Package check is the command `sockstate_exporter check`: would a restart of what
// listens on these ports work at this moment or, if nothing listens, a bind()? It takes a snapshot,
// without the daemon, and writes internal/report's report of it. With --wait it takes snapshots until
// the answer is no longer that it would fail. It calls no bind().
//
// It needs no privilege, and says what it could not see without: the reuse flags of sockets
// need eBPF (CAP_BPF and CAP_PERFMON), those of other users' listeners at least CAP_SYS_PTRACE,
// and so do the names of other users' processes (internal/owner), which eBPF finds, too. It looks at the network
// namespace that it runs in; to move into another one takes CAP_SYS_ADMIN.
package check
