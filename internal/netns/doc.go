// Package netns knows network namespaces: the names of their interfaces.
//
// # Privileges
//
// None in the caller's own namespace. To look into another one takes
// CAP_SYS_ADMIN, there and in the caller's user namespace: setns(2).
package netns
