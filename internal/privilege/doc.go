// Package privilege gives up the privileges that the exporter needs only when it starts.
//
// capset(2) and prctl(2) change one thread, and a Go process has many. libcap's psx changes all of
// them, with and without cgo. Threads that start later inherit the change.
//
// # Privileges
//
// Giving up privileges needs none, except for the bounding set: CAP_SETPCAP.
package privilege
