// Package owner finds who has a socket open: the name of the process, its systemd unit and its
// container.
//
// # Sockets
//
// [Finder.Find] answers from memory. The Finder scans the descriptors of all processes only when a new
// socket appears, or an owner does not have its socket any more. It asks [Options.Searcher] for them, or
// reads the links in /proc/PID/fd without one, or after it failed. It does so in a goroutine of its own: the caller waits at most [Options.Wait], and the next call has the answer.
// Scans take at most a tenth of one CPU, however fast sockets come and go.
//
// Each Find checks one descriptor of each owner (of 128 of them), and of 8 sockets at least. So an
// owner that ended is replaced in the same call, and an owner that closed one of its many sockets in
// one of the next calls. Every minute the Finder reads each owner's name again and checks each of its
// sockets. It forgets a socket that nobody has asked about for ten minutes.
//
// Some sockets have no owner: Owner.Absence says why. The Finder looks for such a socket again after
// 10 seconds, then 20, and so on, up to an hour.
//
// Several processes can have one socket open, by fork or by SCM_RIGHTS. The owner is the process
// that started first. Owner.Processes is how many processes the last scan found. A service manager
// keeps the sockets of its .socket units open. It is the owner only while no other process has the
// socket. The first owner is remembered as long as the socket: when it does not have the socket any
// more, it is Owner.Opener.
//
// A process has the name of its main thread. The kernel cuts that after 15 bytes; a longer name is
// that of the executable or the script (see linux.ProcessName). If the main thread has ended while
// others go on, one of them shows the descriptors. A thread with descriptors of its own (CLONE_FILES
// not set) is only looked into by a Searcher.
//
// [Finder.Lookup] is for the sockets that made a bind fail, by inode. It shares scans with Find.
//
// [Finder.OfProcess] is for a process that did something and may have ended. While the process
// lives, its cgroup tells it from a later process with the same pid. After it has ended, the id of
// the cgroup still leads to unit and container, as long as the cgroup exists. systemd removes the
// cgroup of a service soon after the last process ended, unless it restarts the service.
//
// # Units and containers
//
// Both come from the cgroups of the process: first name=systemd of cgroup v1, then the unified
// hierarchy, then the others. Slices are not units. systemd puts a "_" before some names in paths;
// it is removed. \x2d and the like belong to a unit's name and stay.
//
// A unit is the system's only if it is directly in slices. Whoever runs in a unit with Delegate=
// may make cgroups of any name below it, so these are not units. User managers and containers have
// units and containers of their own. There the innermost one counts. Owner.Unit and
// Owner.ShortContainer have before its name, and a slash, what it is in: "user@1000/x.service" in
// user@1000.service, "docker-0123456789ab/x.service" in a container. An unprivileged user can
// choose what is after the slash, and not what is before it. No unit or container of the system has
// a slash in its name.
//
// A container is known by 64 hexadecimal digits, with or without a prefix and ".scope" (Docker,
// containerd, CRI-O, Podman; Kubernetes with both cgroup drivers), or by its name (LXC, LXD,
// Incus, systemd-nspawn).
//
// # Names
//
// A process chooses the bytes of Owner.Process: at most 64, any but 0. Spaces at both ends are
// removed. Owner.Unit and Owner.Container have letters, digits and :-_.\@, at most 255, and
// Owner.Unit at most another 255 and a slash before them.
//
// # Privileges
//
// None for processes of the same user that may dump core. For the others:
//
//   - CAP_DAC_READ_SEARCH, to list /proc/PID/fd (mode 0500) and to open a cgroup by its id
//     (open_by_handle_at).
//   - CAP_SYS_PTRACE, to read a link in it (proc_pid_readlink calls ptrace_may_access with
//     PTRACE_MODE_READ_FSCREDS), and to see the process at all where procfs is mounted with
//     hidepid.
//
// With a Searcher, neither is needed to find an owner. They then show at once that it has closed a socket
// and goes on, which otherwise takes a minute.
//
// Without a Searcher, one without the other finds nothing. Every scan needs both, so the caller must keep
// them. Yama's ptrace_scope does not matter: it restricts PTRACE_MODE_ATTACH. [Finder.Shortfalls] says
// what is missing.
//
// procfs shows the processes of one pid namespace. In a container with a pid namespace of its own,
// only owners in that container are found. Share the host's pid namespace, or mount the host's
// /proc and name it in [Options].
//
// # Kernel
//
// Any with procfs. A cgroup's id needs the unified hierarchy and Linux 5.5.
package owner
