// Package snapshot takes the state of the watched ports at one moment: listeners, sockets by state,
// reuse flags, verdicts, UDP, the client's side, counters and failed calls, in each of the watched
// network namespaces. It knows nothing of Prometheus or HTTP; the packages that render a [Snapshot]
// do.
//
// It asks through internal/probe, counts with internal/ports, judges with internal/verdict, and gets
// failed calls from internal/failures. Every source stands for itself: a [Part] carries its data or
// the reason why it is missing. Callers of [Taker.Take] that overlap share one snapshot, and each
// waits no longer than its own context: what is not there by then is missing from its copy only.
//
// Memory does not depend on the number of sockets, only on watched ports and listeners. The package
// needs the privileges of its sources: none for sockets of the process's own network namespace,
// CAP_SYS_ADMIN to enter others.
package snapshot
