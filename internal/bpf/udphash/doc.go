// Package udphash reads the UDP sockets on some ports as bind() itself sees them: from the kernel's
// hash table, in its order, with their reuse flags. It also tells which sockets the kernel made for
// itself (VXLAN, WireGuard, NFS): no process can have those open.
//
// An eBPF program runs on request (BPF_PROG_RUN) under rcu_read_lock(), without a lock of the table. The
// cost depends on the sockets of the ports, and on those of other ports in the same slots of the table.
// It is bounded: each port has an equal share of the sockets and steps of a run.
//
// It needs CAP_BPF and CAP_PERFMON to load, CAP_SYS_ADMIN to read another network namespace, and Linux
// 5.17 (bpf_loop). [New] fails where one of these is missing.
package udphash
