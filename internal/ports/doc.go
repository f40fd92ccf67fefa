// Package ports counts the sockets on watched ports (internal/watch): [Counter] by state, [Groups] the
// listeners by address, [Clients] the connections by destination, and [UDPWatcher] the UDP sockets.
//
// [Listening] and [Selection] choose the listeners that are known in detail, [TooMany] those that are
// shown, and [DropCounter] keeps counters that do not fall. Each has a fixed limit, and users share it.
//
// The package is pure: it reads no clock, does no I/O, and needs no privilege and no particular
// kernel.
package ports
