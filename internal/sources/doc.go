// Package sources opens what snapshots are taken from: sock_diag, the bind tracer, the reuse
// flags, owners, network namespaces, and procfs.
//
// What does not work on this host is left out, with its reason, in one log line and in
// [Sources.Features]. Opening takes the privileges that the sources name; [Sources.Capabilities]
// are those that they need from then on.
package sources
