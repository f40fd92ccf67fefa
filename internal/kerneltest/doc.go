// Package kerneltest gives tests and benchmarks a Linux TCP stack of their
// own: network namespaces that nothing outlives, sockets in any TCP state on a
// known local port, TIME_WAIT sockets by the hundred thousand. There are no
// mocks in it; everything is made with system calls and read back from the
// kernel before a function returns.
//
// # Privileges
//
// A network namespace needs CAP_SYS_ADMIN and CAP_NET_ADMIN in some user
// namespace. A test binary whose TestMain calls [Main] gets them without root:
// where they are missing, Main runs the binary again in a user namespace of
// its own. Where that is refused too, New and the Require functions skip, and
// say why. Tests never call t.Skip: [Skip] fails instead when
// SOCKSTATE_REQUIRE_ALL=1, so that a CI host cannot lose tests silently.
// Real root ([RequireRoot]) is only for what a user namespace cannot give: bpf,
// other users. [PrivateMounts] gives the test binary a mount namespace of its own,
// in which [MountTracefs] and other mounts disturb nobody.
//
// # Namespaces
//
// [Open] and [New] create a network namespace by unshare(2) on a thread that
// is thrown away, and hold it by a file descriptor: no bind mount, no process.
// It goes with its last descriptor, socket and process, so nothing stays when
// the test binary is killed. loopback is up; net.* settings are the kernel's
// defaults, and nothing but [NetNS.Sysctl] and [MakeTimeWait] changes them
// (net.ipv4.tcp_max_tw_buckets, only upwards; tcp_rfc1337 while it runs).
//
// Code runs inside by [NetNS.Run] or [NetNS.Do] on a thread of its own that
// never returns to the Go scheduler. A goroutine started from there is not
// inside. A descriptor made inside keeps working everywhere. Processes run
// inside by [NetNS.Command] and are killed when the test ends or its process
// dies.
//
// # Sockets
//
// All are made by raw system calls, so that exactly the flags that were asked
// for are set. [Listener.Peers] puts sockets on the listener's port into a TCP
// state. Some states last only while a packet is missing; the remote end then
// gets a classic socket filter that drops all it receives ([Socket.Deafen]),
// which is what a host that vanished looks like:
//
//	established  connect, accept
//	close_wait   the remote end shuts down
//	fin_wait2    the local end shuts down
//	fin_wait1    the remote end is deaf, the local end shuts down
//	closing      the same, then the remote end shuts down
//	last_ack     close_wait, then the remote end deaf, the local end shuts down
//	time_wait    the local end closes, then the remote end
//	syn_recv     a deaf socket connects: it never sees the SYN-ACK
//	syn_sent     a connect to a socket made established by TCP_REPAIR, deaf
//	close        bound by TCP_REPAIR, neither listening nor connected
//
// The timers of these states run as always: syn_recv and syn_sent end after
// tcp_synack_retries and tcp_syn_retries (a minute, two minutes), time_wait
// after 60 s; the others last as long as the test. fin_wait1, closing and
// last_ack hold one byte in the remote receive queue, so that the kernel resets
// them at once when the process is killed.
//
// The local sockets of syn_sent and close get past the listener's own bind
// conflict by TCP_REPAIR, which needs CAP_NET_ADMIN in the namespace, and take
// the listener's SO_REUSEADDR and SO_REUSEPORT afterwards.
//
// # Kernel
//
// Linux 6.1 and later. Nothing here needs cgo, ip(8) or ss(8).
package kerneltest
