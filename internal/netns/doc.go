// Package netns finds network namespaces, gives each a name, and looks up the names of their
// interfaces.
//
// # Discovery
//
// [Spec] and [Config.Processes] tell a [Discoverer] where to look: names in /run/netns, files
// elsewhere that pin a namespace, and running processes. It never returns the caller's own
// namespace, and returns each other one once.
//
// An open descriptor keeps a namespace alive, with all its sockets and devices, after its last
// process has ended and its last name was deleted. So do a socket that was opened in it, a
// duplicate of the descriptor, a thread in it, and a file that a thread opened below its own net
// directory in procfs. Therefore a Discoverer holds nothing open. [Discoverer.Open] opens what
// exists, for one snapshot. The caller closes each [Namespace] as soon as it has been read, and
// everything that was opened in it. Between two snapshots the kernel can remove what the host has
// deleted.
//
// The next snapshot recognises a namespace by its [ID]. The inode number alone is not enough: the
// kernel gives out the lowest free one (proc_alloc_inum), so a new namespace is likely to get the
// number of one that was just deleted. The kernel does not use a cookie (SO_NETNS_COOKIE, Linux
// 5.14) again before a reboot. On an older kernel the cookie is 0. There, a new namespace with the
// number of a deleted one looks like the deleted one.
//
// A namespace that was found stays in the Sets while any process, thread or mount keeps it:
// [Discoverer.Open] looks for it in all these places before it leaves it out. One that is left out
// is in [Set.Missed] for a minute, and for three Sets. What is kept by ID should be kept as long:
// if the namespace comes back, counters go on.
//
// # Names
//
// A namespace keeps the name that it was first given. No other namespace gets that name, except
// where the file of the name leads to another one, or where the first one is gone. Without cookies
// it has the name that its files and processes give it now.
//
// The name of a [Namespace] is unique in its Set and can be a label as it is: 1 to 64 printable
// characters. Names come from files and containers, so other users may choose them.
//
// # Privileges
//
// None in the caller's own namespace. Another namespace takes CAP_SYS_ADMIN, in its user namespace
// and in the caller's: setns(2). A namespace that may not be entered is not in the Set; the Set's
// error names it. CAP_SYS_PTRACE shows which namespace the process of another user is in
// (ptrace_may_access).
package netns
