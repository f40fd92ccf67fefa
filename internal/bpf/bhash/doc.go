// Package bhash has what the eBPF programs that read the kernel's bind buckets share: bhash.h, the
// walk over the sockets of a TCP port, and the decoder of what it writes. It needs no privilege; the
// programs do.
package bhash
