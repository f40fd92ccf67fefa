// Package bench measures what a scrape costs, beside what others need for the same sockets. It
// has only benchmarks, and a test that they can run: `make bench`, or
//
//	go test -C test ./bench -run '^$' -bench Sockets/n=1000000 -benchtime 5x
//
// They make TIME_WAIT sockets in a network namespace of their own. The last part of a benchmark's
// name is who asks for the sockets, so that `benchstat -col /by` compares them. by=floor is a
// receive loop that asks for IPv4, then for IPv6, and parses nothing. BenchmarkBeside scrapes
// node_exporter, with its defaults, and the exporter in turn, and reports ratios.
//
// cpu-ns/op is the user and system time of the process that does the work. That is the exporter's
// process where a scrape is measured. B/op and allocs/op are those of the exporter's heap. Times
// depend on the machine; ratios hardly do.
//
// They need root, or CAP_SYS_ADMIN and CAP_NET_ADMIN in a user namespace
// (`unshare --user --map-root-user`), and Linux 6.1. ss and node_exporter take part where they
// are installed, in PATH or where `go install` puts them.
package bench
