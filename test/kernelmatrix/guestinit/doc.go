// Command guestinit is pid 1 of the guests that the kernel matrix boots: it
// mounts what the tests expect of a host, loads modules, runs the test
// binaries of its plan one after the other and powers the machine off. It is
// the guest's only program and does its work as root, by system calls alone.
//
// It reports on the second serial line, apart from the kernel's messages on
// the first.
package main
