package main

// A note is what the reference says about a metric beyond its HELP.
type note struct {
	unit    string // unit and range
	details string // sentences; may be empty
	absent  string // when there is no series, beyond what holds for all metrics; may be empty
	source  string // the kernel's name for the value, or the part of the exporter that knows it
}

// notes has one note for each metric, by name without the prefix. The generator refuses a
// metric without a note, and a note without a metric.
func notes() map[string]note {
	const (
		flags     = "0 or 1"
		one       = "always 1"
		sockets   = "sockets, 0 or more"
		ports     = "ports, 0 or more"
		calls     = "calls, since the exporter started"
		bindRules = "the rules of `inet_csk_get_port`, applied to sockets from sock_diag and eBPF"
		owner     = "`/proc/PID/fd`, `comm` and `cgroup`"
		plan      = "the `--watch` flags, and the listeners that the exporter saw"
		discovery = "the `--netns` flags, nsfs and `/proc`"
		netns     = "if `--netns` and `--netns.processes` are not used"
		undecided = "if the answer depends on something that the exporter cannot see"
		exporter  = "the exporter"
		procfs    = "if the exporter cannot read the source"

		unused     = "an address family that the port does not use"
		firstEvent = "before the first failure"
	)
	return map[string]note{
		"tcp_sockets": {
			unit: sockets,
			details: "From Linux 6.8 on, `close` counts sockets that are bound but neither listen nor connect. Older kernels do not show them. " +
				"`established`, `time_wait` and `close_wait` always have a series.",
			absent: "any other state before a socket was seen in it; " + unused + "; `syn_recv` and `close`, in a network namespace other than the exporter's own, if the kernel counts only listeners there and a search for these states would take too long",
			source: "sock_diag, `idiag_state`; or eBPF, `skc_state`",
		},
		"tcp_time_wait_remaining_seconds": {
			unit:    "seconds, 0 or more",
			details: "The kernel runs these timers late: by up to 2 seconds with `CONFIG_HZ=250`, by up to 4 seconds with `CONFIG_HZ=1000`. This metric does not include the delay. The bind and restart metrics do.",
			absent:  "before a TIME_WAIT socket was seen on the port",
			source:  "sock_diag, `idiag_expires`; or eBPF, `tw_timer`",
		},
		"tcp_listener_info": {
			unit: one,
			details: "There is one series for each group of listening sockets with the same address, port and network device. " +
				"`v6only` is `true` or `false`, and missing for IPv4. If several processes have the socket open, `process`, `unit` and `container` describe the oldest one. They are missing if the owner is not known. " +
				"`container` is the name of the container in its pod, of its service in Docker Compose, or of the container. " +
				"If its name is not known, and it has no systemd unit but its scope, `unit` is the runtime and the first digits of the container's id. " +
				"The unit of a user's own service manager has that user before its name: `user@1000/foo.service`.",
			source: "sock_diag, `INET_DIAG_SKV6ONLY`; " + owner,
		},
		"tcp_listener_sockets": {
			unit:    "sockets, 1 or more",
			details: "Several sockets can share an address and port with SO_REUSEPORT.",
			absent:  "before the address had several sockets at once",
			source:  "sock_diag",
		},
		"tcp_listener_accept_queue": {
			unit:    "connections, 0 or more",
			details: "This is the sum over all sockets on the address and port.",
			source:  "sock_diag, `idiag_rqueue` of a listener (`sk_ack_backlog`)",
		},
		"tcp_listener_accept_queue_limit": {
			unit:    "connections, 0 or more",
			details: "The limit of a socket is the backlog that it passed to `listen()`, or `net.core.somaxconn` if that is less. This is the sum over all sockets on the address and port.",
			source:  "sock_diag, `idiag_wqueue` of a listener (`sk_max_ack_backlog`)",
		},
		"tcp_listener_accept_queue_ratio": {
			unit:    "ratio, 0 to slightly above 1; with a limit of 0, the length itself",
			details: "A full queue is slightly above 1, because the kernel accepts one connection more than the limit. A limit of 0 counts as 1.",
			source:  "sock_diag, `idiag_rqueue` divided by `idiag_wqueue`",
		},
		"tcp_listener_drops_total": {
			unit:    "packets, 0 or more, including those from before the exporter started",
			details: "The reason is a full accept queue or something else. A client that tries again counts again. The counter keeps its value when a socket closes or another one replaces it, and starts again at 0 after nothing listened for `--watch.retention`.",
			absent:  "if the kernel does not report the drops of a socket",
			source:  "sock_diag, `SK_MEMINFO_DROPS` (`sk_drops`)",
		},
		"tcp_listener_groups_dropped": {
			unit: "listening addresses, 0 or more",
			details: "At most 64 listening addresses on a port have series. In a network namespace at most 4096 have series, but each port has at least one. " +
				"Where more than 16384 sockets listen in a network namespace, each socket that is left out counts. Users have equal shares. Wildcard addresses come first. Loopback addresses other than `127.0.0.1` and `::1` come last. Sockets without series still count in `sockstate_tcp_sockets`, and they still count when they block a bind.",
			absent: "before an address was left out; if nothing listens on the port",
			source: exporter,
		},
		"tcp_port_split": {
			unit: "0 or 1",
			details: "Without `missing`: `0.0.0.0` and `::` with IPV6_V6ONLY belong to different systemd units or containers, or to different processes where no unit is known. " +
				"With `missing`, which is `ipv4` or `ipv6`: a bind for this family failed, the server that tried serves the other family, and nothing listens for this one. That lasts until something listens for it, or the server is gone, also if nobody tries any more. " +
				"A listener on `::` without IPV6_V6ONLY serves both families. Addresses that are no wildcards may belong to different servers. `sockstate_tcp_listener_info` says who has which half. After a restart of the exporter, a series with `missing` is absent until the next failure.",
			absent: "before the port was split; if the owners are not known",
			source: "sock_diag, procfs, and eBPF, `__sys_bind`",
		},
		"tcp_listener_reuseaddr": {
			unit:   flags,
			absent: "if the flag of a socket is not known, and no other socket lacks it",
			source: "`skc_reuse` by eBPF, or getsockopt(2) by pidfd_getfd(2)",
		},
		"tcp_listener_reuseport": {
			unit:   flags,
			absent: "if the flag of a socket is not known, and no other socket lacks it",
			source: "`skc_reuseport` by eBPF, or getsockopt(2) by pidfd_getfd(2)",
		},
		"tcp_port_shared": {
			unit: flags,
			details: "Servers are different if they belong to different units or containers, or, outside of these, if their programs have different names. " +
				"The kernel gives each new connection to one of the sockets.",
			absent: "before the port was first seen so",
			source: "sock_diag, and the owners of the sockets",
		},
		"tcp_port_unreserved": {
			unit: flags,
			details: "The port is in `net.ipv4.ip_local_port_range` and not in `net.ipv4.ip_local_reserved_ports`, and the program that listens has named it. " +
				"A program that let the kernel choose its port does not count. While a server listens, the kernel gives its port to nobody; while the server restarts, it can.",
			absent: "before the port was first seen so; if the kernel does not say who chose the port: without eBPF",
			source: "`SOCK_BINDPORT_LOCK` in `sk_userlocks`, by eBPF",
		},
		"tcp_bind_blockers": {
			unit: sockets,
			details: "`reuseaddr` says whether the binding socket has SO_REUSEADDR. The addresses are those on which something listens, or listened last. " +
				"If there are none, they are `0.0.0.0` and `::`.",
			absent: "before a socket in the state blocked the bind; " + undecided + "; " + unused,
			source: bindRules,
		},
		"tcp_bind_blocked_seconds": {
			unit: "seconds, 0 or more, or +Inf",
			details: "Listeners do not count, nor connections that wait in an accept queue, because a restart closes them. `reuseaddr` says whether the binding socket has SO_REUSEADDR. " +
				"The addresses are those on which something listens, or listened last. If there are none, they are `0.0.0.0` and `::`. " +
				"+Inf means that no timer of the kernel ends the block.",
			absent: undecided + "; " + unused,
			source: bindRules,
		},
		"tcp_restart_blocked_seconds": {
			unit: "seconds, 0 or more, or +Inf",
			details: "The restarted server uses the same address, flags and user as the listener. Connections in CLOSE_WAIT of a server that listens do not count: they end with it, as soon as their peers confirm that. +Inf means that no timer of the kernel ends the block. " +
				"The series stays for `--watch.retention` after the listener closed.",
			absent: undecided + ", if only connections in CLOSE_WAIT of a server that listens are in the way, or if nothing has listened on the port yet",
			source: bindRules,
		},
		"tcp_restart_info": {
			unit: one,
			details: "`process`, `unit` and `container` are the same as in `sockstate_tcp_listener_info`, which describes the address while something listens there. " +
				"The series stays for `--watch.retention` after the listener closed.",
			absent: "while something listens on the address",
			source: owner,
		},
		"bind_failures_total": {
			unit: calls,
			details: "`port` is the requested port if its network namespace watches it, `0` if the kernel was to choose one, and `other` for the rest. " +
				"A socket that limits itself to a few ports (`IP_LOCAL_PORT_RANGE`) counts as `other` where none of them was free for `bind()` to port 0: other programs may find one. " +
				"Network namespaces that are not watched have the label `netns=\"other\"`, and the numbers of ports that any namespace watches. " +
				"When a port is not watched any more, its count moves to `other`. If it is watched again, it starts at 0. A failure just before its port was watched counts under the number of the port. " +
				"Beside the usual errors, a port has at most 8 series; what is more counts as `errno=\"other\"`. Watched ports have a series for `EADDRINUSE` from the first scrape on.",
			absent: "any other error, port or network namespace before its first failure; " + unused,
			source: "eBPF, `__sys_bind`",
		},
		"listen_failures_total": {
			unit:    calls,
			details: "Two sockets with SO_REUSEADDR can bind to the same address and port. The second one that calls `listen()` fails.",
			absent:  firstEvent,
			source:  "eBPF, `__sys_listen`",
		},
		"bind_conflicts_total": {
			unit: calls,
			details: "[diagnoses.md](diagnoses.md) explains the values of `diagnosis`. If sockets of several kinds block the bind, it is the first of them in the order of that page. " +
				"It is `unknown` if the blocking socket was gone before the exporter could look, if the exporter cannot see it, if more failures came at once than the exporter looks at, or if the network namespace is not watched. " +
				"Calls in `sockstate_bind_events_lost_total` are missing here. When a port is not watched any more, its count moves to `port=\"other\"`.",
			absent: firstEvent,
			source: "eBPF, sock_diag, and the rules of `inet_csk_get_port`",
		},
		"bind_failing": {
			unit: "0 or 1",
			details: "It is 1 from a failed `bind()`, or `listen()`, until something listens on the address that was not there before the failure, or until nobody has tried for 15 minutes, or for an hour if something listened in the hour before. " +
				"If the bind failed beside a listener that a later snapshot still showed, it is 0 as soon as that listener is gone and nobody has tried since: a second copy of a server was started. " +
				"Failures with `EADDRINUSE`, `EADDRNOTAVAIL`, `EACCES` and `EPERM` count; other errors say that the call was wrong. MPTCP counts as TCP. " +
				"Each port and family has one series, whatever addresses failed: it is 1 while one of them fails. Whether something listens is another fact: `sockstate_tcp_listener_info`. For UDP, a socket that is not connected counts as a listener. After a restart of the exporter it is absent until the next failure.",
			absent: "before the first failure; and for network namespaces that are not watched",
			source: "eBPF, `__sys_bind`, `__sys_listen`; sock_diag",
		},
		"bind_last_failure_timestamp_seconds": {
			unit: "seconds since 1970-01-01 UTC",
			details: "`process` is the name of the process that called `bind()`, and not of its thread. `unit` is its systemd unit and `container` its container; each is missing if it is not known. " +
				"`diagnosis` says why the call failed, whatever the error. For `EADDRINUSE` it comes a moment after the call. Until then it is that of the call before, if that had the same process, `errno` and `reuseaddr`, and missing otherwise.",
			absent: "if no `bind()` has failed for the port yet, or the port is not watched any more",
			source: "eBPF, `__sys_bind`",
		},
		"bind_events_lost_total": {
			unit:    calls,
			details: "The calls failed faster than the exporter reads their details, or one user made more than 1,024 a second fail. A user is a network namespace and uid. They have no entry on `/failures` and are missing in `sockstate_bind_conflicts_total`.",
			source:  "eBPF ring buffer",
		},
		"bind_failures_unattributed_total": {
			unit:    calls,
			details: "Another thread closed the socket during the call, or the tracer could not keep the arguments of the call. So the port and the protocol are not known.",
			source:  "eBPF",
		},
		"vsock_bind_failures_total": {
			unit:    calls,
			details: "A vsock socket connects a virtual machine with its host. Its port is a number of its own and no port of the network, so these calls count in no other metric. Of all network namespaces.",
			source:  "eBPF, `__sys_bind`",
		},
		"bind_tracer_missed_runs_total": {
			unit:    "runs, since the exporter started",
			details: "The skipped runs belong to calls that failed and to calls that worked. While this rises, failures may be missing from the counters. In the mode `kprobe`, Linux before 6.7 does not say which calls found no free return probe.",
			source:  "eBPF, `recursion_misses` of programs, `missed` of kprobe links",
		},
		"bind_tracer_slots_used": {
			unit:    "slots, 1 or more",
			details: "Failed calls count in slots. Each watched port of a network namespace has one, and again one for all namespaces that are not watched. Each watched network namespace has two more. Only what is watched takes slots: processes cannot use them up. A slot is given back when its port or its network namespace is not watched any more.",
			source:  "eBPF map `slots`",
		},
		"bind_tracer_slots_limit": {
			unit:    "slots",
			details: "This is twice `--watch.max-ports`, and 132 more for ports where binds fail and for the exporter's own network namespace. `--netns` and `--netns.processes` add 2,560 for other network namespaces. It is at most 8,192.",
			source:  "eBPF map `slots`",
		},
		"bind_tracer_slots_lacking": {
			unit:    "ports and network namespaces, 0 or more",
			details: "Those that were watched first keep their slots. Failed calls of the others count as `port=\"other\"`, or as `netns=\"other\"` if it is the network namespace that has no slot.",
			source:  "eBPF map `slots`",
		},
		"connect_failures_total": {
			unit: calls,
			details: "For TCP the error is `EADDRNOTAVAIL`: every local port is in use for this destination. For UDP and others it is `EAGAIN`: every local port is in use. " +
				"`EADDRNOTAVAIL` for another reason does not count, nor does a socket that limits itself to a few ports (`IP_LOCAL_PORT_RANGE`). Network namespaces that are not watched have the label `netns=\"other\"`.",
			absent: firstEvent,
			source: "eBPF, `__sys_connect`",
		},
		"unix_bind_failures_total": {
			unit: calls,
			details: "The path is no label: there is no end of paths. `/failures` has it, with a diagnosis. Errors that `bind()` of a Unix socket does not return by itself have `errno=\"other\"`. " +
				"Network namespaces that are not watched have the label `netns=\"other\"`.",
			absent: firstEvent,
			source: "eBPF, `__sys_bind`",
		},
		"unix_listener_info": {
			unit: "always 1",
			details: "This is for the paths of `--watch.unix`, and so are the other metrics of watched paths. The socket is the one that has the file at the path (`UNIX_DIAG_VFS`), whatever name it was bound to. `path` is printable; `@` stands before an abstract name. " +
				"`netns` is the network namespace of the socket.",
			absent: "if nobody has the socket of the file open, or it belongs to a network namespace that is not watched",
			source: "unix_diag, stat(2), and eBPF or procfs for the owner",
		},
		"unix_listener_accept_queue": {
			unit:    "connections, 0 or more",
			details: "A full queue holds one connection more than the limit. Then `connect()` waits, or fails with `EAGAIN`, and no counter of the kernel rises.",
			absent:  "if nobody listens",
			source:  "unix_diag, `udiag_rqueue` of a listener",
		},
		"unix_listener_accept_queue_limit": {
			unit:    "connections, 0 or more",
			details: "The backlog that the server passed to `listen()`, or `net.core.somaxconn` if that is less.",
			absent:  "if nobody listens",
			source:  "unix_diag, `udiag_wqueue` of a listener (`sk_max_ack_backlog`)",
		},
		"unix_path_stale": {
			unit:    "0 or 1",
			details: "While it is 1, a server that does not remove the file cannot bind (`unix_stale_file`). It is 0 if no file is there.",
			absent:  "for abstract names; if the file has no socket that the exporter sees, and it does not see the sockets of all network namespaces: it needs `--netns.processes` for that",
			source:  "unix_diag and stat(2)",
		},
		"unix_path_unreached_listeners": {
			unit:    "sockets, 0 or more",
			details: "`unix_shadowed`: the path leads to the socket of another server. `unix_unlinked`: the file was removed. [diagnoses.md](diagnoses.md) explains both. A socket in another mount namespace is not counted, nor is one whose process cannot be looked at.",
			absent:  "before a socket was cut off in that way",
			source:  "unix_diag, stat(2) and procfs",
		},
		"unix_paths_dropped": {
			unit:    "paths, 0 or more",
			details: "At most 256 paths are watched, and of those that patterns find at most 64 of one user from uid 1000 on. A path counts for an hour after it is gone.",
			absent:  "without `--watch.unix`",
			source:  exporter,
		},
		"udp_sockets": {
			unit:    sockets,
			details: "Connected sockets count as well.",
			absent:  unused,
			source:  "sock_diag",
		},
		"udp_receive_queue_bytes": {
			unit:    "bytes, 0 or more",
			details: "This is the sum over all sockets on the port. Each datagram counts with the memory that the kernel keeps for it.",
			absent:  unused,
			source:  "sock_diag, `idiag_rqueue` (`sk_rmem_alloc`)",
		},
		"udp_drops_total": {
			unit:    "datagrams, 0 or more, including those from before the exporter started",
			details: "The reason is a full receive queue or a wrong checksum. The counter keeps its value when a socket closes or another one replaces it, and starts again at 0 after the port was not watched for `--watch.retention`.",
			absent:  "if the kernel does not report the drops of a socket; " + unused,
			source:  "sock_diag, `SK_MEMINFO_DROPS` (`sk_drops`)",
		},
		"udp_listener_info": {
			unit: one,
			details: "There is one series for each address and network device that has a socket that is not connected, at most 16 for a port. " +
				"`reuseaddr` and `reuseport` are `true` if all its sockets have SO_REUSEADDR or SO_REUSEPORT, `false` if one lacks it, and missing if that is not known. " +
				"`process` is `(kernel)` if the kernel made the socket for itself, as for VXLAN or WireGuard. `v6only`, `process` and `unit` are those of the oldest socket, otherwise as in `sockstate_tcp_listener_info`.",
			source: "`udp_table`, by eBPF; without it sock_diag; " + owner,
		},
		"udp_port_shared": {
			unit: flags,
			details: "Servers are different as in `sockstate_tcp_port_shared`. Sockets that have joined a multicast group do not count, nor two that both may broadcast: each of them gets a copy of what is sent to many. " +
				"Each unicast datagram reaches only one of the servers.",
			absent: "before the port was first seen so; without eBPF, which reads the flags",
			source: "`udp_table`, by eBPF, and the owners of the sockets",
		},
		"udp_restart_blocked": {
			unit:    flags,
			details: "A restart closes the sockets of its own unit, container or program. Those of another one may be in its way, such as a child with another name that has inherited a socket.",
			absent:  "before the port was first seen so; without eBPF, which reads the flags",
			source:  "`udp_table`, by eBPF, the owners of the sockets, and the rules of `udp_lib_get_port`",
		},
		"udp_port_split": {
			unit:    flags,
			details: "It means the same as `sockstate_tcp_port_split`. Connected sockets do not count. `sockstate_udp_listener_info` says who has which half.",
			absent:  "before the port was split; without eBPF, which reads the flags; if the owners are not known",
			source:  "`udp_table`, by eBPF, the owners of the sockets, and eBPF, `__sys_bind`",
		},
		"tcp_remote_sockets": {
			unit:    sockets,
			details: "`established`, `time_wait` and `close_wait` always have a series.",
			absent: "any other state before a socket was seen in it; an address family without a socket to the port so far, if the other one had some; " +
				"in other network namespaces than the exporter's own, before the first socket to the port; if `--watch.remote-port` is not used",
			source: "sock_diag, `idiag_state`; or eBPF, `skc_state`",
		},
		"netns_ephemeral_ports_used": {
			unit: ports + ", at most `sockstate_netns_ephemeral_ports_limit`",
			details: "A destination is an address and port as seen from one source address. `rank` is 1 for the busiest destination of the address family, then 2 and 3. Ports in TIME_WAIT count as in use, ports of servers do not. IPv4-mapped destinations count as IPv4. " +
				"The value can be too low by at most 1/8192 of all client connections.",
			absent: "before the address family had so many destinations",
			source: "sock_diag, or eBPF",
		},
		"netns_time_wait_sockets": {
			unit:    sockets,
			details: "This counts both address families. It includes FIN_WAIT2 sockets that no process owns any more.",
			absent:  procfs,
			source:  "`/proc/net/sockstat`, `TCP tw`",
		},
		"netns_time_wait_limit": {
			unit:    sockets,
			details: "When the limit is reached, the kernel closes further connections without TIME_WAIT.",
			absent:  procfs,
			source:  "`net.ipv4.tcp_max_tw_buckets`",
		},
		"netns_time_wait_overflows_total": {
			unit:   "connections, since the network namespace was created",
			absent: procfs,
			source: "`/proc/net/netstat`, `TcpExt TCPTimeWaitOverflow`",
		},
		"netns_listen_overflows_total": {
			unit:   "connections, since the network namespace was created",
			absent: procfs,
			source: "`/proc/net/netstat`, `TcpExt ListenOverflows`",
		},
		"netns_listen_drops_total": {
			unit:   "connections, since the network namespace was created",
			absent: procfs,
			source: "`/proc/net/netstat`, `TcpExt ListenDrops`",
		},
		"tcp_memory_bytes": {
			unit:    "bytes, 0 or more",
			details: "The kernel counts whole pages, for all network namespaces together. Each CPU counts some of them apart, so the number is not exact.",
			absent:  procfs,
			source:  "`mem` in `/proc/net/sockstat` (`tcp_memory_allocated`)",
		},
		"tcp_memory_pressure_bytes": {
			unit:    "bytes",
			details: "Above it, the kernel lets no buffer grow, shrinks receive windows and drops segments out of order, until the memory is below the first number of the sysctl.",
			absent:  "if the exporter does not run in the initial network namespace",
			source:  "second number of `net.ipv4.tcp_mem`",
		},
		"tcp_memory_limit_bytes": {
			unit:    "bytes",
			details: "Above it, the kernel refuses memory to sockets, and closes those that it cannot keep.",
			absent:  "if the exporter does not run in the initial network namespace",
			source:  "last number of `net.ipv4.tcp_mem`",
		},
		"tcp_orphans": {
			unit:    "sockets, 0 or more",
			details: "Their processes have closed them, or ended, and data or the end of the connection is still to be sent. Sockets in TIME_WAIT do not count. The kernel counts those of all network namespaces together.",
			absent:  procfs,
			source:  "`orphan` in `/proc/net/sockstat` (`tcp_orphan_count`)",
		},
		"tcp_orphans_limit": {
			unit:    "sockets",
			details: "Above it, the kernel resets orphans. It begins earlier with those whose peers do not answer.",
			absent:  "if the exporter does not run in the initial network namespace",
			source:  "`net.ipv4.tcp_max_orphans`",
		},
		"netns_ephemeral_ports_limit": {
			unit:    ports,
			details: "The kernel chooses from them for `connect()`, and for `bind()` to port 0. The limit holds for each pair of local address and destination.",
			absent:  procfs,
			source:  "`net.ipv4.ip_local_port_range`, without `net.ipv4.ip_local_reserved_ports`",
		},
		"watched_port_info": {
			unit:    one,
			details: "`name` comes from `--watch.port`, and is missing if it gives none. `source` is `flag` for a port that `--watch.port` names, `listener` for a port that the exporter discovered, and `failure` for a port without a listener to which a bind failed less than `--watch.retention` ago.",
			source:  plan,
		},
		"watched_ports": {
			unit:    ports + ", at most `sockstate_watched_ports_limit` and 64 ports of source `failure`",
			details: "TCP and UDP ports count apart, and in each network namespace.",
			source:  plan,
		},
		"watched_ports_limit": {
			unit:   "ports, 1 or more",
			source: plan,
		},
		"watched_ports_dropped": {
			unit:    ports,
			details: "Watched ports keep their place. A user (network namespace and uid) with few ports takes the place of the newest port of the user with most, so the ports that are left out belong to users with many ports. If this is above 0, raise `--watch.max-ports` or exclude ports with `--watch.exclude`.",
			source:  plan,
		},
		"netns_info": {
			unit: one,
			details: "The network namespace has the name of the pod or the container. `pod_uid` is the uid that the kubelet knows. `runtime` is `containerd`, `crio`, `docker` or `podman`, and missing if neither the cgroup nor a file names it. " +
				"`namespace` and `pod` are missing outside of Kubernetes. `docs/containers.md` has the joins with kube-state-metrics.",
			absent: netns + "; for a namespace without a container whose name is known",
			source: "files of the kubelet and of the runtimes",
		},
		"watched_namespaces": {
			unit:   "network namespaces, 0 to 1024",
			absent: netns,
			source: discovery,
		},
		"watched_namespaces_dropped": {
			unit:    "network namespaces, 0 or more",
			details: "The exporter watches at most 1024.",
			absent:  netns,
			source:  discovery,
		},
		"namespaces_unreadable_processes": {
			unit:    "processes, 0 or more",
			details: "Only `--netns.processes` looks at processes. CAP_SYS_PTRACE lets the exporter see them all.",
			absent:  netns,
			source:  discovery,
		},
		"feature_available": {
			unit: flags,
			details: "`reason` says what is missing if the feature does not work, or works only in part. `mode` says how it works if there is more than one way. " +
				"If both are set, `reason` says what is missing for the better way. See [privileges.md](privileges.md).",
			absent: "a feature that is switched off; `connect_tracing`, if `bind_tracing` does not work; `sock_diag`, if the kernel did not answer in time, or with an error that says nothing about the host",
			source: exporter,
		},
		"scrape_collector_success": {
			unit:    flags,
			details: "A collector that failed costs only its own metrics. The log has the reason.",
			absent:  "if the collector is switched off",
			source:  exporter,
		},
		"scrape_collector_duration_seconds": {
			unit:    "seconds, 0 or more",
			details: "Collectors share data sources, so the sum can be longer than the scrape. With several network namespaces this is the slowest one.",
			absent:  "if the collector is switched off",
			source:  exporter,
		},
		"netns_collector_success": {
			unit:    "always 0",
			details: "Only collectors that look at each network namespace separately have this metric.",
			absent:  "if the collector got all its data; if the collector is switched off",
			source:  exporter,
		},
		"exposition_series": {
			unit: "series, 1 or more",
			details: "It includes the series of this metric. `sockstate_scrape_collector_*` and `sockstate_netns_collector_success` count for their collector. " +
				"`collector=\"exporter\"` has what belongs to no collector.",
			absent: "if the collector is switched off",
			source: exporter,
		},
	}
}
