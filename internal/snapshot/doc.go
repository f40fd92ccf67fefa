// Package snapshot takes the state of the watched ports at one moment: it asks the
// sources (sock_diag through netlinkdiag, procfs through stack, reuse flags through
// sockflags, failed binds through bindtrace, owners of sockets through owner), in each of the
// network namespaces that netns finds, folds the stream of sockets into counts per port, and
// knows which ports are watched. It knows nothing of Prometheus or HTTP; the doors render what
// it returns.
//
// Every source stands for itself: a [Part] carries its data or the reason why it is
// missing. Callers that overlap share one snapshot, and each waits no longer than its own
// context: what is not there by then is missing from its copy only.
//
// [Taker.FollowBinds] runs beside the snapshots: it notes failed binds as they happen, and
// looks at once at a port where one failed with EADDRINUSE, for what is in the way. What
// that costs is bounded, however many fail.
//
// Memory does not depend on the number of sockets, only on watched ports and listeners, nor
// on which ports are asked for in binds that fail. It needs the privileges of its sources:
// none for sockets of the caller's own network namespace, CAP_SYS_ADMIN to enter others.
package snapshot
