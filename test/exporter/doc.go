// Package exporter tests the exporter as a process: what it serves, its command line, which
// privileges it needs, and which it keeps. It has only tests.
//
// The exporter runs under the race detector when the tests do. Most tests need network
// namespaces, some root and a kernel that lets eBPF programs load.
package exporter
