// Package sock has the words that the rooms of the project share: states, families, protocols
// and ports of sockets. It has no logic, and needs nothing of the kernel.
package sock
