package bpf

import (
	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// MapZeros makes the section .bss of a collection one that [ebpf.Map.Memory] can map, and returns where its variables
// are. The kernel makes it of zeros, so the copies of them that the collection has are dropped.
func MapZeros(spec *ebpf.CollectionSpec) (offsets map[string]int64) {
	const section = ".bss"
	offsets = make(map[string]int64)
	for name, v := range spec.Variables {
		if v.SectionName == section {
			offsets[name] = int64(v.Offset)
			delete(spec.Variables, name)
		}
	}
	spec.Maps[section].Flags |= unix.BPF_F_MMAPABLE
	spec.Maps[section].Contents = nil
	return offsets
}
