package sockflags

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"sockstate_exporter/internal/sock"
)

// maxExpected bounds what the kernel is told of expected binds. An exporter expects some thousands of
// binds at most.
const maxExpected = 1 << 15

// enum what of sockflags.c.
const (
	whatAddress = iota
	whatUID
	whatDevice
)

// expect tells the program which binds to tell apart. It returns the ports for which there was no
// room.
func (it *iterator) expect(binds map[uint16][]Bind) (unexpected map[uint16]bool, err error) {
	keys := make([]sockflagsExpectedKey, 0, len(it.expected))
	for port, of := range binds {
		before := len(keys)
		for i := range of {
			keys = appendExpected(keys, port, &of[i])
		}
		if len(keys) > maxExpected {
			if unexpected == nil {
				unexpected = make(map[uint16]bool)
			}
			keys, unexpected[port] = keys[:before], true
		}
	}
	slices.SortFunc(keys, compareExpected)
	keys = slices.Compact(keys)
	if slices.Equal(keys, it.expected) {
		return unexpected, nil
	}
	if err := it.forgetExpected(); err != nil {
		return nil, err
	}
	if len(keys) > 0 {
		if _, err := it.objs.Expected.BatchUpdate(keys, make([]uint8, len(keys)), nil); err != nil {
			it.expected = keys // some of them are in the map
			return nil, fmt.Errorf("set expected binds: %w", err)
		}
	}
	it.expected = keys
	return unexpected, nil
}

func (it *iterator) forgetExpected() error {
	for _, k := range it.expected {
		if err := it.objs.Expected.Delete(&k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("forget expected binds: %w", err)
		}
	}
	it.expected = nil
	return nil
}

// appendExpected adds what the program has to know of a bind: see enum what.
func appendExpected(keys []sockflagsExpectedKey, port uint16, b *Bind) []sockflagsExpectedKey {
	to, every := sockflagsExpectedKey{Port: port}, sockflagsExpectedKey{Port: port, Any: 1}
	if addr := b.Addr.Unmap(); b.Addr.IsValid() && !addr.IsUnspecified() {
		for i, bytes := 0, addr.As16(); i < len(to.Addr); i++ {
			to.Addr[i] = binary.NativeEndian.Uint32(bytes[4*i:])
		}
		keys = append(keys, to)
	}
	add := func(what uint8, value uint32) {
		for _, k := range []sockflagsExpectedKey{to, every} {
			k.What, k.Value = what, value
			keys = append(keys, k)
		}
	}
	if b.UIDKnown {
		add(whatUID, b.UID)
	}
	if b.Ifindex != 0 {
		add(whatDevice, b.Ifindex)
	}
	return keys
}

func compareExpected(a, b sockflagsExpectedKey) int {
	return cmp.Or(
		cmp.Compare(a.Port, b.Port), slices.Compare(a.Addr[:], b.Addr[:]), cmp.Compare(a.What, b.What),
		cmp.Compare(a.Any, b.Any), cmp.Compare(a.Value, b.Value),
	)
}

// isFolded says whether the group may stand for sockets that differ.
func isFolded(k *sockflagsGroupKey) bool {
	return k.Flags&flagElsewhere != 0 || k.Uid == sock.OtherUID || k.Ifindex == sock.OtherIfindex
}
