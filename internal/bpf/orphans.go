// Package bpf has what the loaders of the eBPF programs share. kernel.h is what the programs share.
package bpf

import "github.com/cilium/ebpf/btf"

// OrphansAreRoots says whether the uid of a socket that no process has open is 0, for bind() and
// sock_diag: kernels that have sock_i_uid() read it from the socket's inode.
func OrphansAreRoots(kernel *btf.Spec) bool {
	var fn *btf.Func
	return kernel.TypeByName("sock_i_uid", &fn) == nil
}
