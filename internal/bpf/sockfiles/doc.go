// Package sockfiles finds the processes that have some sockets open, without procfs.
//
// An eBPF iterator (iter/task_file) passes all descriptors of all processes and reports those that
// refer to sockets. So it takes a few percent of the CPU time that the links in /proc/PID/fd take. It
// also sees the descriptors of a thread that shares none with its process (CLONE_FILES not set), and of
// a process whose main thread has ended. It does not see a socket that is on its way through a Unix
// socket (SCM_RIGHTS), registered with io_uring alone, or the kernel's own.
//
// # Bounds
//
// The threads of a process whose main thread has ended share their descriptors, and the iterator passes
// them for each thread. Any user can make such a process, with 10,000 threads and a million
// descriptors. [Reader.Search] gives up with [ErrTooMany] where there is more of this than any server
// has. Otherwise a Search takes some 0.1 µs for each descriptor of the host.
//
// # Privileges and kernel
//
// [New] needs CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN, in the initial user namespace, kernel BTF
// (CONFIG_DEBUG_INFO_BTF), and Linux 5.11: bpf_sock_from_file(). Search needs no privilege, also to see
// the processes of other users, except CAP_BPF before Linux 5.19 where kernel.unprivileged_bpf_disabled
// is not 0.
//
// The iterator shows the processes of the pid namespace of the thread that opens it, under their number
// in the initial one. So New fails outside the initial pid namespace. It also fails in a time namespace
// whose boot time is not the host's, since times would not be those of procfs.
package sockfiles
