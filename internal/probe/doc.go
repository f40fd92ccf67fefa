// Package probe asks what is in a network namespace at this moment: listeners, sockets on ports,
// their reuse flags, counters and limits. A scrape, the look at a port where a bind has failed,
// and the command check all ask through a [Namespace].
//
// [Config] says how: sock_diag through netlinkdiag, reuse flags through a [FlagReader], procfs
// through the functions that it holds. [Config.Own] asks the process's own namespace,
// [Config.In] another one. A fake for tests is in probetest.
//
// It needs no privilege for the sockets of the own namespace, CAP_SYS_ADMIN to enter others, and
// for the flags what their reader needs.
package probe
