// Package reexec runs a test binary a second time, in new namespaces. A process
// with several threads cannot enter a user or mount namespace itself: unshare(2)
// refuses.
//
// What the new namespaces need, the caller needs. Linux 6.1 and later.
package reexec
