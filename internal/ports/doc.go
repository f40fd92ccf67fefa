// Package ports decides which TCP and UDP ports are watched, under which name,
// and for how long after their listener closed.
//
// A port is watched because somebody asked for it (a [Spec], for ever), or
// because a listener was seen on it (discovered). A discovered port is kept
// while its listener is there, for [Config.Retention] after the listener was
// last seen, and beyond that as long as sockets linger on it: the sockets that
// outlive a server are the reason to watch its port. [Config.MaxPorts] bounds
// how many ports come out of all network namespaces and both protocols together,
// whatever the host does: a [Plan] makes the [Watcher] of each.
//
// The package is pure: it reads no clock, does no I/O, and needs no privilege
// and no particular kernel. State is bounded by the 65535 ports there are.
package ports
