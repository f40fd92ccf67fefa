// Package privilege gives up what the exporter needs only at its start.
//
// capset(2) and prctl(2) act on one thread, and a Go process has many: libcap's psx reaches
// them all, with and without cgo; threads that start later inherit. It needs no privilege to
// give privileges up, but for the bounding set: CAP_SETPCAP.
package privilege
