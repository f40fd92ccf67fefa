// Package linux has small wrappers around system calls and procfs that several packages need.
//
// It imports nothing of the project. It keeps no state: every function asks the kernel.
//
// # Privileges
//
// To enter a network namespace takes CAP_SYS_ADMIN, in the namespace's user namespace and in the
// caller's: setns(2). To list the descriptors of another user's process takes
// CAP_DAC_READ_SEARCH, since /proc/PID/fd has mode 0500. To read a link in it takes
// CAP_SYS_PTRACE: proc_pid_readlink calls ptrace_may_access with PTRACE_MODE_READ_FSCREDS. The
// other functions need no privilege.
//
// # Kernel
//
// Linux 3.17, for /proc/thread-self.
package linux
