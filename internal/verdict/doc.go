// Package verdict answers, from the sockets on a port, whether a bind() would work: for each
// listener that is there, or closed lately, and for binders with and without SO_REUSEADDR. It also
// says what made a bind fail.
//
// [View] collects the sockets of a port as bind() sees them; [History] remembers listeners, and
// judges. The rules are in internal/bindrule. The package is pure: it asks the kernel nothing and
// reads no clock.
package verdict
