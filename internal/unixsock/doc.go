// Package unixsock says what is at the path of a Unix socket, or has an abstract name: who could bind
// there, who is reached there, and who believes to be reached and is not.
//
// bind(2) to a path fails with EADDRINUSE if anything is there, whether or not somebody listens. Servers
// that remove the file first take a path over from one that still listens. So a path has one file, and
// any number of sockets that were bound to it. Only the one whose inode is the file's is reached by
// clients. The name of a socket does not say which one that is: it stays as bind(2) got it when the file is
// renamed, removed, or made anew.
//
// A file belongs to all network namespaces, and an abstract name to one. A path belongs to a mount
// namespace: a socket in a container may have the name of another one on the host, and both are reached.
//
// The package is pure. Package unixlook asks the kernel.
package unixsock
