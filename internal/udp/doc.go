// Package udp has the UDP sockets on a port as bind() sees them, with their flags and owners, and says
// whether a bind would work and who shares a port.
//
// [Read] asks through internal/probe, and needs the privileges of that. Everything else is pure.
package udp
