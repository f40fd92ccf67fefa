// Package failures follows the calls of bind(), listen() and connect() that fail, from the tracer's
// event to counts and causes.
//
// A [Recorder] runs beside the snapshots: it notes failed calls as they happen, and looks at once for
// what made them fail: the sockets on the port, the address, what has the local ports. What that costs
// is bounded, however many calls fail. [Recorder.Update] hands the state over to a snapshot, and
// tells the tracer which ports are watched.
//
// Memory depends neither on the number of failures nor on the ports that they ask for. The package
// needs the privileges of its tracer (internal/bpf/bindtrace) and of internal/probe.
package failures
