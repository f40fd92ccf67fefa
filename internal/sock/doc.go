// Package sock has the words that the packages of the project share: states, families, protocols
// and ports of sockets, features, and printable names.
//
// It has no logic, needs no privilege, and imports nothing of the project but netlinkdiag.
package sock
