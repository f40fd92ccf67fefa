// Package watch decides which TCP and UDP ports are watched, under which name and for how long.
//
// A port is watched because somebody asked for it (a [Spec], for ever), because a listener was seen
// on it (discovered), or because a bind to it failed ([Plan.BindFailed]). A discovered port is kept
// while its listener is there, for [Config.Retention] after the listener was last seen, and longer
// while sockets linger on it: they are the reason to watch the port of a server that went.
// [Config.MaxPorts] limits the ports of all network namespaces and both protocols together; the ports
// to which binds fail have a limit of their own. A [Plan] makes the [Watcher] of each namespace.
//
// The package is pure: it reads no clock, does no I/O, and needs no privilege and no particular
// kernel.
package watch
