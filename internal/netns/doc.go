// Package netns knows network namespaces: which there are, by which name, how
// to enter one, and what their interfaces are called.
//
// # Which there are
//
// A [Discoverer] is told by [Spec] and [Config.Processes] where to look: names
// in /run/netns, files that pin a namespace elsewhere, and running processes.
// It never returns the namespace of the caller, nor one twice.
//
// An open descriptor of a namespace keeps it in being, with all its sockets and
// devices, after its last process has gone and its last name was deleted; so do
// a socket that was opened in it, a duplicate of the descriptor, a thread that
// is in it, and a file that a thread opened below its own net directory in
// procfs. A Discoverer
// therefore holds nothing: [Discoverer.Open] opens what is there, for one
// snapshot, and whoever called it closes it, each [Namespace] as soon as it has
// been read, along with what was opened inside. Between two snapshots the
// kernel can remove what the host has deleted.
//
// The next snapshot recognises a namespace by its [ID]. Its inode number alone
// does not do: the kernel hands out the lowest free one (proc_alloc_inum), so a
// new namespace is likely to get the number of one just deleted. The cookie
// (SO_NETNS_COOKIE, Linux 5.14) is not reused before a reboot. Where a kernel
// has none it is 0, and a namespace that was replaced by another one of the same
// number cannot be told from it.
//
// # Names
//
// A [Namespace] has a name that no other in the Set has, and that can be a
// label as it is: 1 to 64 printable characters. Names are file names and names
// of containers: anybody's choice.
//
// # Privileges
//
// None in the caller's own namespace. To look into another one takes
// CAP_SYS_ADMIN, there and in the caller's user namespace: setns(2). One that may
// not be entered is not in the Set, but in its error. To see
// which namespace a process of another user is in takes CAP_SYS_PTRACE
// (ptrace_may_access).
package netns
