// Package sources opens what snapshots are taken from: sock_diag, the bind tracer, the reuse
// flags, socket owners, network namespaces, and procfs.
//
// A source that does not work on this host is left out. [Sources.Features] and one log line say
// why.
//
// # Privileges
//
// Opening needs the privileges that the packages of the sources name. [Sources.Capabilities] are
// those that the open sources still need.
package sources
