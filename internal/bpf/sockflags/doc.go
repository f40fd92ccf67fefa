// Package sockflags reads SO_REUSEADDR and SO_REUSEPORT of TCP sockets, which
// sock_diag does not carry.
//
// # Two ways
//
// [ModeBPF]: an eBPF iterator (iter/tcp) walks the kernel's socket table, one
// network namespace a [Reader.Read]. Listeners on the watched ports are answered
// by socket cookie, as sock_diag shows it (the iterator gives a socket its cookie
// where nobody asked for it before). All others, TIME_WAIT and SYN_RECV
// included, are counted in groups of equal sockets inside the kernel. A flag that
// changes shows at the next Read. Only bound sockets that neither listen nor
// connect are not seen: the kernel's iterator does not visit them.
//
// [ModePidfd]: without eBPF, the listeners that the caller names are looked for
// in /proc/PID/fd, their descriptor is duplicated (pidfd_getfd(2)), asked
// (getsockopt(2)) and closed at once. A listener whose process cannot be found or
// may not be asked is absent from the result. There are no groups: a socket in
// TIME_WAIT has no descriptor. While the duplicate is open, some microseconds, a
// listener that is closed stays. Of a process whose threads do not share their
// descriptors, those of the first thread are seen.
//
// # What is not known
//
// is absent. Groups are bounded ([Options.MaxGroups]; one port may have a
// quarter): a port with more of them is in [Result.Missed], and what Groups say
// about it is then not all of it.
//
// # Cost
//
// ModeBPF walks the socket table of all namespaces once, as a dump by sock_diag does,
// and takes less time than that; run beside a dump on another CPU it slows neither.
// A context that ends stops the walk at the namespace's next socket.
//
// ModePidfd searches /proc for the listeners it does not know yet, and afterwards
// asks each at an interval ([Options.PidfdInterval]), since flags can change.
//
// # Privileges and kernel
//
// ModeBPF needs Linux 5.12, kernel BTF (CONFIG_DEBUG_INFO_BTF) and, in New only,
// CAP_BPF and CAP_PERFMON (or CAP_SYS_ADMIN) in the initial user namespace; Read
// then needs none. Before Linux 5.19, Read needs CAP_BPF too where
// kernel.unprivileged_bpf_disabled is not 0. Read of another namespace than the
// calling thread's ([Request.NetNS]) needs CAP_SYS_ADMIN, for setns(2).
//
// ModePidfd needs Linux 5.6 and, in Read, CAP_SYS_PTRACE, and
// CAP_DAC_READ_SEARCH to list other users' descriptors. With neither, processes of
// the same user are still found as far as ptrace(2) allows (Yama's
// kernel.yama.ptrace_scope must be 0); [Reader.Shortfalls] then says what is missing.
//
// Close leaves nothing loaded, nor does a process that is killed: the program,
// its link and its maps are held by file descriptors alone.
package sockflags
