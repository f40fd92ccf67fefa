// Package guest holds what the kernel matrix runner and the init of its guests
// must agree on: the plan the init finds in its root, and the report it writes
// to the second serial line. It is pure and needs no privileges.
package guest
