// Package diagtest is a fake sock_diag kernel for tests. A [Kernel] answers a
// netlinkdiag.Conn in place of the running kernel.
//
// It answers as Linux does (net/ipv4/inet_diag.c), from a table of sockets that the test
// provides. Or it answers with the datagrams and errors that the test provides, for edge
// cases that no real kernel produces on demand. It needs no privileges, and no particular
// kernel.
package diagtest
