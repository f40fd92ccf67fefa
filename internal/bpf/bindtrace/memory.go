//go:build linux

package bindtrace

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bindtrace/slots"
)

const (
	slotSize = 8 * (1 + 191) // struct slot
	// chunkSlots slots end at the end of a page, also where pages have 64 KiB.
	chunkSlots = 128
	chunkSize  = chunkSlots * slotSize
)

// slotMemory maps the kernel's slots, as far as they were ever used: mapped memory counts as the
// process's own.
type slotMemory struct {
	slots  *ebpf.Map
	chunks [][]byte
}

// roundSlots returns the number of slots that fill whole chunks.
func roundSlots(n int) int { return (n + chunkSlots - 1) / chunkSlots * chunkSlots }

// Open implements slots.Reader.
func (m *slotMemory) Open(slot int) error {
	for len(m.chunks) <= slot/chunkSlots {
		chunk, err := unix.Mmap(m.slots.FD(), int64(len(m.chunks)*chunkSize), chunkSize, unix.PROT_READ, unix.MAP_SHARED)
		if err != nil {
			return fmt.Errorf("map counts: %w", err)
		}
		m.chunks = append(m.chunks, chunk)
	}
	return nil
}

// Read implements slots.Reader. Counts are aligned words, so each is read in one piece.
func (m *slotMemory) Read(slot int, to *slots.Sums) bool {
	at := slot % chunkSlots * slotSize
	words := m.chunks[slot/chunkSlots][at : at+slotSize]
	if binary.NativeEndian.Uint64(words) == 0 {
		return false
	}
	for i := range to {
		to[i] = binary.NativeEndian.Uint64(words[8*(1+i):])
	}
	return true
}

func (m *slotMemory) close() error {
	var errs []error
	for _, chunk := range m.chunks {
		errs = append(errs, unix.Munmap(chunk))
	}
	m.chunks = nil
	return errors.Join(errs...)
}
