// Package diagtest is a sock_diag kernel for tests: a [Kernel] stands behind a
// netlinkdiag.Conn in place of the running one.
//
// It answers as Linux does (net/ipv4/inet_diag.c), from a table of sockets that the test
// gives it, or with the datagrams and errors of a script: the edge cases that no
// real kernel produces on demand. It needs no privileges and works on any system.
package diagtest
