// Package reexec runs a test binary a second time: as one of the processes that its tests start
// ([Play]), or in new namespaces ([Run]). A running
// Go process cannot move into them, because it has several threads: unshare(2)
// refuses it a new user namespace, and gives a new mount namespace to one thread
// only.
//
// A user namespace needs no privileges where the host allows it to ordinary
// users. The other namespaces need CAP_SYS_ADMIN, or a user namespace with them.
// Linux 6.1 and later.
package reexec
