// Package bindtrace counts failed bind(2), listen(2) and connect(2) calls of the
// whole host by what the caller asked for, with eBPF.
//
// At the exit of a failed bind the kernel's own socket has no port any more
// (inet_sport is 0); the port that was asked for stands only in the call's
// sockaddr. A [Tracer] reads it there, together with the socket's flags.
//
// # What is counted
//
// Every call of the bind system call that fails on a socket of AF_INET or
// AF_INET6, and every listen that fails with EADDRINUSE, once, whether or not
// anybody reads the events. A [Count] holds the namespace, the port, the
// socket's address family (a v4 address on a v6 socket counts as v6), the
// protocol, the errno, and SO_REUSEADDR and SO_REUSEPORT of the socket.
//
// The port is a number where it is watched ([Tracer.SetWatch]) and for port 0
// (any), and [Key.OtherPort] otherwise. It is OtherPort as well where the call
// carries no port that the kernel would have looked at: a sockaddr that cannot
// be read (EFAULT), is shorter than sockaddr_in or SIN6_LEN_RFC2133 or longer
// than sockaddr_storage (EINVAL), or is of a family other than AF_INET, AF_INET6
// and AF_UNSPEC (EAFNOSUPPORT). The namespace is 0 where it is not watched
// ([Tracer.SetNamespaces]). Both keep the number of keys in the hands of user
// space; when there are more than Options.MaxCounts all the same, failures of
// new keys count under OtherPort in namespace 0. Counts never fall while the
// tracer lives, whatever is watched.
//
// SOCK_RAW sockets count as [ProtocolOther]: their protocol is what they
// filter for. errno values that bind and listen are not known for count as
// errno 0.
//
// # connect
//
// A connect that finds no ephemeral port left for its destination counts once
// under [OpConnect], Port 0, without events and without the socket's flags:
//
//	EADDRNOTAVAIL  TCP, MPTCP  __inet_hash_connect
//	EAGAIN         all others  inet_autobind, before the destination is looked at
//
// The first has other causes, which count with OtherPort set: the socket is bound
// to a port and has the very connection already, or IPv6 has no source address
// (tcp_v6_connect, ip6_datagram_connect), as for ::1 where IPv6 is disabled. A
// socket that bind gave an ephemeral port, and whose connection exists, is taken
// for one without: connect lets go of that port as it fails. Other errors are not
// counted, nor is an EAGAIN that has other causes.
//
// UDP sockets that are not connected find their port in sendto, which says EAGAIN
// as well. That is not seen.
//
// connect is called often where bind is not, so all that is done for other results
// is to look at the result. With tracepoints there is only sys_exit_connect, which
// finds the call's arguments in the task's saved registers: x86-64 and arm64, Linux
// 5.15 and later (bpf_task_pt_regs). Options.NoConnects leaves connect alone. Where
// it cannot be traced binds are all the same: [Tracer.ConnectsErr].
//
// # What is left out
//
//   - EBADF and ENOTSOCK: no socket, so neither family nor protocol.
//   - Sockets of other families.
//   - Calls on a descriptor that another thread closed before they returned:
//     [Stats.Unattributed]. (One that was replaced counts as what it is then.)
//   - What is no such system call: io_uring's connects, and binds (Linux 6.11 and
//     later), and the kernel's own. TCP Fast Open connects in sendto.
//   - With tracepoints: 32-bit callers on a 64-bit kernel, which the kernel's
//     tracepoints do not see, and calls that seccomp or ptrace answered in the
//     kernel's stead. fexit sees the first; the second never reach bind. A connect
//     that was answered so does count with tracepoints, if it was with one of the
//     errors above: its exit is all that is seen.
//   - Calls that began while the tracer was being attached.
//   - What the kernel skipped by its own rules: see Exactness.
//
// The sockaddr is read when the call returns; a caller that changes it
// meanwhile from another thread is counted by what it holds then.
//
// # Modes
//
// [ModeFexit] attaches to __sys_bind, __sys_listen and __sys_connect: other system
// calls cost nothing to speak of. Where the kernel refuses it [ModeTracepoint] uses
// the tracepoints syscalls/sys_enter_bind, sys_exit_bind, the same of listen, and
// sys_exit_connect, which need tracefs:
//
//	mount -t tracefs tracefs /sys/kernel/tracing
//
// [New] proves what it attached by a bind and a connect of its own that must fail,
// so that a kernel whose compiler inlined __sys_bind does not count nothing in
// silence.
//
// # Exactness
//
// No count is lost to races between CPUs, a full map or a full ring. What can
// be lost are runs of the programs that the kernel skips, and counts in
// [Stats.Missed]:
//
// fexit programs do not nest on a CPU (__bpf_prog_enter_recur). Where kernel
// code cannot be preempted (preempt=none and voluntary, the default of server
// distributions) they never do. Where it can (preempt=full, lazy, PREEMPT_RT)
// a task may be preempted inside the program, and calls of others on that CPU
// are skipped until it runs again: nothing in ordinary operation, up to a fifth
// of a storm of 100,000 failing binds from several processes. Tracepoint
// programs run without preemption, and were exact in the same storm.
//
// Tracepoint programs are skipped on a CPU where a task was preempted inside a
// bpf(2) map command, again on preemptible kernels only. The tracer's own
// reading makes no such calls; other users of eBPF may. Linux 6.1 does not
// count these.
//
// # Privileges and kernel
//
// Linux 5.8 with BTF (CONFIG_DEBUG_INFO_BTF); tested on 6.1, 6.12 and 6.18.
// Before Linux 5.11 the maps count against RLIMIT_MEMLOCK. To attach:
//
//	fexit       CAP_BPF, CAP_PERFMON
//	tracepoint  CAP_BPF, CAP_PERFMON, CAP_DAC_READ_SEARCH
//
// CAP_DAC_READ_SEARCH is for tracefs, which belongs to root. Where
// kernel.perf_event_paranoid is above 2, the default on Debian, tracepoints want
// CAP_SYS_ADMIN in place of CAP_BPF and CAP_PERFMON.
//
// Once New has returned no capability is needed. Only before Linux 5.19, with
// kernel.unprivileged_bpf_disabled set, do SetNamespaces and Stats want CAP_BPF
// still.
//
// Nothing is pinned: the programs go with the last descriptor, also when the
// process is killed.
package bindtrace
