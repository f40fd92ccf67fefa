// Package failing says on which ports binds fail, from the first failure until a bind works or nobody
// tries any more. It knows the order of failures and listeners, which a query over metrics can only
// guess.
//
// That a bind works is seen by its socket: one that listens on an address that failed, and that no
// snapshot before the failure has shown. So nothing runs for binds that work. Between two snapshots
// the order is known only of sockets that the kernel had in the way of the failure. Any other new
// listener counts as the bind that worked. If that was wrong, the next failure says so.
//
// A bind may fail because a healthy server listens: somebody starts it a second time. Such a failure
// is over when that listener is gone and nobody has tried since. It does not count as a server that is
// missing.
//
// The package is pure.
package failing
