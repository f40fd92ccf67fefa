// Package unixwatch watches the paths of Unix sockets that --watch.unix names: who listens there, the
// accept queue, and which servers are cut off from their clients.
//
// A pattern finds files that are sockets. A path that it has found stays watched for some time after the file is gone,
// and as long as a server still listens on it: that is what the watch is for. The number of paths is
// bounded. A user may have a quarter of what patterns find: of the files' owners, each from uid 1000 on is one. A
// path counts in that share for an hour, so that nobody makes ever new ones.
//
// It reads directories, of each at most 16,384 names, and opens no file.
package unixwatch
