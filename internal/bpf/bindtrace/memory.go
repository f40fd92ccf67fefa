//go:build linux

package bindtrace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bindtrace/slots"
)

const (
	slotSize = 8 * (1 + 191) // struct slot
	// chunkSlots slots end at the end of a page, also where pages have 64 KiB.
	chunkSlots = 128
	chunkSize  = chunkSlots * slotSize

	// unixSlots struct unix_counts end at the end of such a page, too.
	unixSlots = 512
	unixSize  = unixSlots * 8 * slots.UnixCounts
)

// slotMemory maps the kernel's slots, as far as they were ever used: mapped memory counts as the
// process's own.
type slotMemory struct {
	slots, unix        *ebpf.Map
	chunks, unixChunks [][]byte
}

// roundSlots returns the number of slots that fill whole chunks.
func roundSlots(n, chunk int) int { return (n + chunk - 1) / chunk * chunk }

// Open implements slots.Reader.
func (m *slotMemory) Open(slot int) error {
	var err error
	if m.chunks, err = mapUpTo(slot/chunkSlots, m.chunks, m.slots, chunkSize); err == nil {
		m.unixChunks, err = mapUpTo(slot/unixSlots, m.unixChunks, m.unix, unixSize)
	}
	return err
}

// mapUpTo maps the chunks of a map up to one of them.
func mapUpTo(last int, chunks [][]byte, of *ebpf.Map, size int) ([][]byte, error) {
	for len(chunks) <= last {
		chunk, err := unix.Mmap(of.FD(), int64(len(chunks)*size), size, unix.PROT_READ, unix.MAP_SHARED)
		if err != nil {
			return chunks, fmt.Errorf("map counts: %w", err)
		}
		chunks = append(chunks, chunk)
	}
	return chunks, nil
}

// Read implements slots.Reader. Counts are aligned words, so each is read in one piece.
func (m *slotMemory) Read(slot int, to *slots.Sums) bool {
	at := slot % chunkSlots * slotSize
	words := m.chunks[slot/chunkSlots][at : at+slotSize]
	if binary.NativeEndian.Uint64(words) == 0 {
		return false
	}
	for i := range slots.InetCounts {
		to[i] = binary.NativeEndian.Uint64(words[8*(1+i):])
	}
	for i := range slots.UnixCounts {
		at := 8 * (slot%unixSlots*slots.UnixCounts + i)
		to[slots.InetCounts+i] = binary.NativeEndian.Uint64(m.unixChunks[slot/unixSlots][at:])
	}
	return true
}

func (m *slotMemory) close() error {
	var errs []error
	for _, chunk := range slices.Concat(m.chunks, m.unixChunks) {
		errs = append(errs, unix.Munmap(chunk))
	}
	m.chunks, m.unixChunks = nil, nil
	return errors.Join(errs...)
}
