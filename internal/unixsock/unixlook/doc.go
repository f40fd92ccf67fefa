// Package unixlook looks at the paths of Unix sockets: at the file, at the sockets of all network
// namespaces that it may ask, and at their owners.
//
// It never opens a file, except with O_PATH, which only finds it. Names that others chose are looked up
// in the root directory of the process that chose them, and cannot lead out of it.
//
// # Privileges
//
// None for the sockets of the own network namespace. For those of others CAP_SYS_ADMIN (setns), and
// CAP_SYS_PTRACE for /proc/PID/root of another user's processes.
package unixlook
