// Command bench measures what a scrape costs, beside what others need for the same
// sockets: `make bench`, or `go run -C test ./bench -help`.
//
// It makes TIME_WAIT sockets in a network namespace of its own and asks for them in
// every way it knows, in rounds (A, B, C, then A, B, C again), so that what else the
// machine does hits everybody alike. The floor is a receive loop that parses nothing.
// Figures depend on the machine, ratios hardly do; nothing here passes or fails.
//
// Three tables (-only picks some):
//
//	sockets  against the number of sockets, with peak memory and allocations
//	ports    against the number of watched ports; filtering in the kernel or here
//	host     a usual host: 100 listeners, 1,000 sockets
//
// It needs root, or CAP_SYS_ADMIN and CAP_NET_ADMIN in a user namespace
// (`unshare --user --map-root-user`), Linux 6.1, and the go command to build the exporter.
// ss and node_exporter take part where they are installed. Nothing is left behind when it
// is killed: processes die with it, and the namespace with them.
package main
