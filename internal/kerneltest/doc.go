// Package kerneltest gives tests and benchmarks a Linux TCP stack of their own:
// network namespaces that leave nothing behind, and sockets in any TCP state on
// a known local port. It has no mocks. It makes everything with system calls and
// reads it back from the kernel before a function returns. Package timewait,
// below it, makes TIME_WAIT sockets by the hundred thousand.
//
// # Privileges
//
// A network namespace needs CAP_SYS_ADMIN and CAP_NET_ADMIN in some user
// namespace. A test binary whose TestMain calls [Main] has them without root:
// where they are missing, Main runs the binary again in a user namespace of its
// own. Where the host refuses that too, New and the Require functions skip the
// test and say why. Tests never call t.Skip: when SOCKSTATE_REQUIRE_ALL=1,
// [Skip] fails instead, so that a CI host cannot lose tests silently. Only bpf
// and other users need real root ([RequireRoot]). Package mounts, below this one,
// gives the test binary a mount namespace of its own.
//
// # Namespaces
//
// [Open] and [New] create a network namespace by unshare(2) on a thread that
// ends afterwards, and hold it by a file descriptor: no bind mount, no process.
// The kernel removes the namespace with its last descriptor, socket and process,
// so nothing stays when the test binary is killed. lo is up. The net.* settings
// are the kernel's defaults.
//
// [NetNS.Run] and [NetNS.Do] run code in the namespace, on a thread of its own.
// A goroutine that this code starts is not in the namespace. A descriptor that it
// opens works everywhere. [NetNS.Command] runs a process in the namespace. The
// process is killed when the test ends or when the test binary dies.
//
// # Sockets
//
// Raw system calls make all sockets, so that they have exactly the flags that
// the test asks for. [Listener.Peers] makes sockets on the listener's port and
// brings them into a TCP state. Some states last only while a packet is missing.
// There, a classic socket filter at the remote end drops all that it receives
// ([Socket.Deafen]), as if the remote host had vanished:
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
// The timers of these states run as always. syn_recv and syn_sent end after
// tcp_synack_retries and tcp_syn_retries (one minute, two minutes), time_wait
// after 60 s. The others last as long as the test. In fin_wait1, closing and
// last_ack the remote receive queue holds one byte, so that the kernel resets
// the connection at once when the process is killed.
//
// The local sockets of syn_sent and close get past the bind conflict with the
// listener by TCP_REPAIR, which needs CAP_NET_ADMIN in the namespace. Afterwards
// they have the listener's SO_REUSEADDR and SO_REUSEPORT.
//
// # Kernel
//
// Linux 6.1 and later. Nothing here needs cgo, ip(8) or ss(8).
package kerneltest
