// Package privilege gives up the capabilities that the exporter needs only at its start.
//
// capset(2) acts on one thread, and a Go process has many: libcap's psx sets them all, with
// and without cgo. It needs no privilege to give privileges up.
package privilege
