// Package bindtrace counts failed bind(2), listen(2) and connect(2) calls of the whole host by what
// the caller asked for, with eBPF.
//
// When a failed bind returns, the kernel's socket has no port any more (inet_sport is 0). Only the
// sockaddr of the call still has the port that the caller asked for. A [Tracer] reads it there,
// with the flags of the socket.
//
// # What is counted
//
// Each bind system call that fails on a socket of AF_INET or AF_INET6, and each listen that fails
// with EADDRINUSE, counts once, whether or not anybody reads the events. A [Count] has the network
// namespace, the port, the socket's address family (a v4 address on a v6 socket counts as v6), the
// protocol and the errno.
//
// A watched port ([Tracer.SetWatch]) counts by its number, and so does port 0 (any). Other ports of
// the namespace count under [Key.OtherPort]. So does a call without a port that the kernel would have read: its
// sockaddr cannot be read (EFAULT), is shorter than sockaddr_in or SIN6_LEN_RFC2133 or longer than
// sockaddr_storage (EINVAL), or has a family other than AF_INET, AF_INET6 and AF_UNSPEC
// (EAFNOSUPPORT). A namespace that is not watched counts as 0.
//
// A socket can limit itself to a part of the ephemeral ports (IP_LOCAL_PORT_RANGE, Linux 6.3). Where
// none of these is free, bind to port 0 also counts under OtherPort, and connect with OtherPort set:
// others may find a port. [Event.OwnRange] says so.
//
// # Who can use up what
//
// Each watched port of a namespace has a slot of its own, and so have the other ports of the
// namespace, and port 0. A process can choose family, protocol and errno: a slot has a count for
// each combination. So no process can take the count of another one's port, and only what is
// watched takes slots. Where there are more ports than Options.MaxSlots, those that have a slot keep
// it, and the rest counts under OtherPort: [Stats.SlotsLacking].
//
// A port that is not watched any more gives its slot back. Its counts move to OtherPort of its
// namespace. Those of a namespace move to namespace 0. When the port is watched again, it starts at
// 0. So no old total looks like new failures of the port, and no sum falls.
//
// Each port has a Key for the errors that servers usually get. Of other errors it has 8, the first
// that came; what is more counts as errno 0.
//
// An event costs space in the ring. One user has 1,024 events a second, and half of the ring is
// for ports with a slot. A user is a namespace and uid, all namespaces that are not watched being
// one. In a user namespace, it is the uid of the user who made the outermost one: [Event.User].
// What has no event is counted all the same, and in [Stats.Lost].
//
// A call that works costs a run of the program. It never wakes the reader.
//
// Blockers take up to eight times the space of an event, and time. So only the first 128 events of a
// user's burst have them, and none where a quarter of the ring is full.
//
// SOCK_RAW sockets count as [ProtocolOther]: their protocol is a filter. An errno that bind and
// listen do not return by themselves counts as errno 0.
//
// # Blockers
//
// Where bind or listen on a TCP or MPTCP port returns EADDRINUSE, the program looks at once for the
// sockets that were in the way: [Event.Blockers]. A moment later they may be gone, and so may the
// caller. The program walks the bind bucket of the port (see bhash.h), and leaves out sockets that
// cannot conflict with the request: the rules are those of inet_bind_conflict, and what is in doubt
// stays. It takes no lock. What it reads it checks for port, network namespace, family and state, so a
// blocker is a socket that was on the port. [Event.Captured] says whether the blockers are all:
// CaptureSome means that there were more than 8, that the list changed meanwhile, or that it was
// longer than what is looked at: 1,024 sockets, and since Linux 6.8 768 of each local address.
//
// Listeners come before other sockets, and displace them. [Blocker.Own] says that the calling process
// has the socket open; it is false where the descriptor is not among the first 1,024. An MPTCP socket
// appears as its first TCP socket, with the inode of the MPTCP socket.
//
// Capturing needs bpf_loop(), Linux 5.17. Where the kernel refuses it, programs without it are loaded:
// [Tracer.CapturesErr] says why, and Captured is CaptureNone. It is CaptureNone, too, where the kernel
// keeps its tables in another way: from Linux 5.18 to 6.0.
//
// # EACCES
//
// bind returns EACCES for a port below net.ipv4.ip_unprivileged_port_start where the caller lacks
// CAP_NET_BIND_SERVICE, and where a security module refuses it. [Event.UnprivilegedStart] and
// [Event.PrivilegeLacked] tell these apart. They are read as the call returns, so they are right also
// where the caller or the sysctl changes a moment later. A security module that denies the capability
// itself does not set PrivilegeLacked.
//
// # connect
//
// A connect that finds no free ephemeral port for its destination counts once under [OpConnect],
// Port 0. Its event has the destination. The socket's flags are not counted:
//
//	EADDRNOTAVAIL  TCP, MPTCP  __inet_hash_connect
//	EAGAIN         all others  inet_autobind, before the kernel looks at the destination
//
// Some of these errors have other causes, which count with OtherPort set. The last two have no event:
//
//   - The socket has a range of its own, as above.
//   - EADDRNOTAVAIL: the socket is bound to a port, and the same connection exists already.
//   - EADDRNOTAVAIL: IPv6 has no source address (tcp_v6_connect, ip6_datagram_connect), as for ::1 where IPv6 is
//     disabled.
//
// One case is counted wrongly: bind gave the socket an ephemeral port, and its connection exists.
// connect releases that port when it fails, so the call looks like one without a free port. Other
// errors are not counted, nor is an EAGAIN with another cause.
//
// UDP sockets that are not connected get their port in sendto, which also returns EAGAIN. The
// tracer does not see that.
//
// connect is called often, bind is not. For a result that is not counted, the program only reads
// the result. With tracepoints there is only sys_exit_connect, which finds the arguments of the
// call in the saved registers of the task: on x86-64 and arm64, Linux 5.15 and later
// (bpf_task_pt_regs). Options.NoConnects leaves connect alone. Binds are traced also where connect
// cannot be: [Tracer.ConnectsErr].
//
// # Unix sockets
//
// Each bind of a Unix socket that fails counts once, by network namespace and errno
// ([Tracer.UnixCounts]), and has an event with the path ([Tracer.ReadUnix]). Paths have no counts: there
// is no end of them. The events have a ring and shares of their own: one user has 128 a second, which is
// a quarter of the ring of the default size, and half of the ring is for watched namespaces.
//
// # What is not counted
//
//   - EBADF and ENOTSOCK: no socket, so neither family nor protocol.
//   - Sockets of other families, and listens and connects of Unix sockets.
//   - Calls on a descriptor that another thread closed before they returned:
//     [Stats.Unattributed]. Where another thread replaced the descriptor, the new socket counts.
//   - Calls that are not one of these system calls: connects, binds and listens (Linux 6.11 and
//     later) of io_uring, and the kernel's own. TCP Fast Open connects in sendto.
//   - With tracepoints, calls of 32-bit processes on a 64-bit kernel: the kernel's tracepoints do
//     not see them. fexit and kprobes do.
//   - With kprobes, connects of SCTP where its module was loaded after New, and an EADDRNOTAVAIL or
//     EAGAIN of connect that comes from elsewhere than the search for a port or a source address,
//     as from a cgroup program.
//   - Calls that seccomp or ptrace answered instead of the kernel. Tracepoints still count such a
//     connect where its error is one of those above, since they see only its exit.
//   - Calls that began before the tracer was attached.
//   - Calls that the kernel skipped by its own rules: see Exactness.
//
// The tracer reads the sockaddr when the call returns. Where another thread of the caller changes
// it meanwhile, the new content counts.
//
// # Modes
//
// [ModeFexit] attaches to __sys_bind, __sys_listen and __sys_connect. Other system calls cost
// practically nothing.
//
// Where the kernel refuses it, [ModeKprobe] probes the returns of __sys_bind and __sys_listen, and for
// connect those of tcp_v4_connect, tcp_v6_connect, inet_dgram_connect and sctp_inet_connect, where
// connect looks for a port. A probe of __sys_connect would be held by each connect that waits for
// its peer, and the kernel has few. The arguments of a call are in the saved registers of the task,
// on x86-64 and arm64, Linux 5.15 and later (bpf_task_pt_regs). So no program runs at the entry,
// and nothing is kept from the entry to the exit.
//
// Where the kernel refuses that, too, [ModeTracepoint] uses the tracepoints
// syscalls/sys_enter_bind, sys_exit_bind, sys_enter_listen, sys_exit_listen and sys_exit_connect,
// which need tracefs:
//
//	mount -t tracefs tracefs /sys/kernel/tracing
//
// They are last, since while they are attached, each system call of the host takes the kernel's
// slower way.
//
// [New] tests what it attached with a bind and a connect that must fail. A kernel whose compiler
// inlined __sys_bind would otherwise count nothing, and nobody would notice.
//
// # Exactness
//
// No count is lost to races between CPUs, a lack of slots or a full ring. Only calls for which the kernel
// skips a program are lost. [Stats.Missed] counts them.
//
// fexit programs do not nest on a CPU (__bpf_prog_enter_recur). Where kernel code cannot be
// preempted (preempt=none and voluntary, the default of server distributions), that never happens.
// Elsewhere (preempt=full, lazy, PREEMPT_RT) a task may be preempted in the program, and the calls
// of other tasks on that CPU are skipped until it runs again: none in ordinary operation, up to a
// fifth when several processes made 100,000 failing binds at once. Tracepoint programs run without
// preemption, and were exact in the same test.
//
// Kprobe programs run without preemption, too. But the kernel has max(10, 2 * CPUs) return probes for
// each function, and does not see a call for which none is free. The probed functions seldom wait.
// But any user can make binds wait, or run more threads in the search for a port than there are
// probes. Before Linux 6.7 nothing says how many calls were missed, and [Stats.Missed] is too low.
//
// Tracepoint programs are skipped on a CPU where a task was preempted in a bpf(2) map command,
// again on preemptible kernels only. The tracer does not use such commands to read; other users of
// eBPF may. Linux 6.1 does not count these.
//
// # Privileges and kernel
//
// Linux 5.8 with BTF (CONFIG_DEBUG_INFO_BTF); tested on 6.1, 6.12 and 6.18, and on 6.12 of
// arm64. Before Linux 5.11 the maps count against RLIMIT_MEMLOCK. To attach:
//
//	fexit       CAP_BPF, CAP_PERFMON
//	kprobe      CAP_BPF, CAP_PERFMON
//	tracepoint  CAP_BPF, CAP_PERFMON, CAP_DAC_READ_SEARCH
//
// CAP_DAC_READ_SEARCH is for tracefs, which belongs to root. Where kernel.perf_event_paranoid is
// above 2, the default on Debian, kprobes and tracepoints need CAP_SYS_ADMIN instead of CAP_BPF and CAP_PERFMON.
//
// After New no capability is needed, with one exception: before Linux 5.19, where
// kernel.unprivileged_bpf_disabled is set, Stats needs CAP_BPF.
//
// Nothing is pinned. The kernel removes the programs with the last descriptor, also when the
// process is killed.
package bindtrace
