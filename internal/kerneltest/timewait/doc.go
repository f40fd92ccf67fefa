// Package timewait makes TIME_WAIT sockets for tests and benchmarks: one, or a
// million, on the local ports and with the flags that the caller asks for.
//
// The sockets are those of a real server. A client connects over loopback, the
// server's end closes first, and the client's end closes when it has received
// the FIN. They last 60 s (TCP_TIMEWAIT_LEN). Two CPUs make some 30,000 a second.
//
// While it works, and only in the namespace that it is given, the package
// raises net.ipv4.tcp_max_tw_buckets, which stays, and sets
// net.ipv4.tcp_rfc1337, which it sets back. That needs CAP_NET_ADMIN there.
//
// Linux 6.1 and later.
package timewait
