// Package sockflags reads SO_REUSEADDR and SO_REUSEPORT of TCP sockets. sock_diag does not have
// them.
//
// # Two modes
//
// [ModeBPF]: an eBPF iterator (iter/tcp) walks the kernel's socket table, one network namespace
// for each [Reader.Read]. A result has each listener on the watched ports by its socket cookie,
// the one that sock_diag shows. The iterator gives a socket its cookie where it has none yet. The
// kernel counts all other sockets in groups of equal sockets, TIME_WAIT and SYN_RECV included. The
// next Read shows a flag that changed. One kind of socket is missing, since the kernel's iterator
// does not visit it: a socket that is bound and neither listens nor connects.
//
// [ModePidfd], without eBPF: the Reader searches /proc/PID/fd for the listeners that the caller
// names, duplicates the descriptor (pidfd_getfd(2)), asks it (getsockopt(2)) and closes it at once.
// A listener is absent from the result where its process is not found or may not be asked. There
// are no groups: a socket in TIME_WAIT has no descriptor. The duplicate is open for some
// microseconds; a listener that its server closes meanwhile stays until then. In a process whose
// threads do not share their descriptors, only those of the first thread are seen.
//
// # What is not known
//
// It is absent. The number of groups is bounded ([Options.MaxGroups]), and no port can take the room of
// others: half of it is shared, and each port takes a quarter of what is left there; each port has an
// equal share of the rest. Beyond the shared half, sockets are folded: [Request.Expected] says which
// binds have to tell them apart. A port with more groups even so is in [Result.Missed], and its Groups
// are not complete.
//
// # Cost
//
// ModeBPF walks the socket table of all namespaces once, as a sock_diag dump does, and takes less
// time than a dump. Beside a dump on another CPU, neither is slower. When the context ends, the
// walk ends at the namespace's next socket.
//
// ModePidfd searches /proc for new listeners only. It asks known ones again after
// [Options.PidfdInterval], since flags can change.
//
// # Privileges and kernel
//
// ModeBPF needs Linux 5.12 and kernel BTF (CONFIG_DEBUG_INFO_BTF). New needs CAP_BPF and
// CAP_PERFMON, or CAP_SYS_ADMIN, in the initial user namespace. Read needs no capability, with two
// exceptions: CAP_BPF before Linux 5.19 where kernel.unprivileged_bpf_disabled is not 0, and
// CAP_SYS_ADMIN for another namespace than the calling thread's ([Request.NetNS]), for setns(2).
//
// ModePidfd needs Linux 5.6. Read needs CAP_SYS_PTRACE, and CAP_DAC_READ_SEARCH to list the
// descriptors of other users' processes. Without them, Read still finds processes of the same user
// where ptrace(2) allows it (kernel.yama.ptrace_scope must be 0). [Reader.Shortfalls] says what is
// missing.
//
// Nothing stays loaded after Close, or after the process was killed: only file descriptors hold
// the program, its link and its maps.
package sockflags
