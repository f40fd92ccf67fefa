// Package owner finds who has a socket open: the name of the process, its systemd unit and its
// container.
//
// # Sockets
//
// [Finder.Find] answers from memory. The links in /proc/PID/fd of all processes are looked
// through only when a socket appears that was not seen before, in a goroutine of the Finder's
// own: the caller waits [Options.Wait] at most and has the answer at the next call. Scans take
// a tenth of one CPU at most, however fast sockets come and go. A socket that no process has
// open (the kernel's own: NFS, WireGuard), or none that may be looked into, is looked for again
// after 10 seconds, then 20, and so on up to an hour. Every minute an owner
// is asked again for its name and whether it still has the socket; if not, the socket is looked
// for anew. Sockets that nobody asks about are forgotten after ten minutes.
//
// Of several processes that have a socket open, by fork or by SCM_RIGHTS, the owner is the one
// that started first; Owner.Processes is how many there were at the last scan. A service
// manager, which keeps the sockets of its .socket units, is the owner only while nobody else
// has the socket. The process is named as its main thread is. A process whose main thread has
// ended while others go on has no descriptors in /proc/PID/fd, and is not found; nor are
// threads with descriptors of their own (CLONE_FILES not set).
//
// [Finder.OfProcess] is for a process that did something and may have ended. As long as it is
// there it is told from a successor in its pid by its cgroup; when it is gone, unit and
// container still are known by the cgroup's id, while the cgroup is there: systemd removes
// that of a service soon after its last process, unless it restarts it.
//
// # Units and containers
//
// Both are read from the process' cgroups: name=systemd of cgroup v1 first, then the unified
// hierarchy, then the others. The innermost counts: a service of a user and not
// user@1000.service, nginx.service of systemd in a container and not the container's scope.
// So inside of what is delegated to it (user services, containers) an unprivileged user decides
// which names there are. Slices are no units. Of systemd's encoding in paths a leading _ is
// taken back; \x2d and the like belong to a unit's name, and stay.
//
// Containers are known by 64 hexadecimal digits with or without a prefix and .scope (Docker,
// containerd, CRI-O, Podman; Kubernetes with both cgroup drivers), or by their names (LXC, LXD,
// Incus, systemd-nspawn).
//
// # Names
//
// Owner.Process is whatever bytes the process chose: 15 at most, of any value but 0; spaces at
// both ends are lost. Owner.Unit and Owner.Container have at most 255 characters, out of
// letters, digits and :-_.\@.
//
// # Privileges
//
// None for processes of the same user that may dump core. For others CAP_DAC_READ_SEARCH to
// list and enter /proc/PID/fd (mode 0500), and CAP_SYS_PTRACE to read a link in it
// (proc_pid_readlink asks ptrace_may_access with PTRACE_MODE_READ_FSCREDS) and to see the process
// at all where procfs is mounted with hidepid; one without the other is worth nothing. They
// have to be kept: every scan needs them. Yama's ptrace_scope does not matter, it restricts
// PTRACE_MODE_ATTACH. CAP_DAC_READ_SEARCH also opens a cgroup by its id (open_by_handle_at).
// [Finder.Shortfalls] says what is missing.
//
// procfs shows the processes of one pid namespace. In a container with one of its own, only
// owners inside of it are found; let it share the host's, or mount the host's /proc and name
// it in [Options].
//
// # Kernel
//
// Any with procfs. Cgroups by id need the unified hierarchy mounted, and Linux 5.5.
package owner
