package sockwalk

import (
	"cmp"
	"errors"

	"github.com/cilium/ebpf"
)

// An entry is one of a hash map of the programs.
type entry[K comparable, V comparable] struct {
	key   K
	value V
}

func compareCookies(a, b entry[uint64, uint32]) int { return cmp.Compare(a.key, b.key) }

func comparePorts(a, b entry[portKey, uint8]) int {
	return cmp.Or(cmp.Compare(a.key.Namespace, b.key.Namespace), cmp.Compare(a.key.Port, b.key.Port))
}

// update changes a map that has some entries so that it has others, and notes these. Both are sorted.
// Most updates change nothing.
func update[K, V comparable](m *ebpf.Map, has *[]entry[K, V], wanted []entry[K, V], compare func(a, b entry[K, V]) int) error {
	var gone, keys []K
	var values []V
	before := *has
	for i, j := 0, 0; i < len(before) || j < len(wanted); {
		var order int
		switch {
		case i == len(before):
			order = 1
		case j == len(wanted):
			order = -1
		default:
			order = compare(before[i], wanted[j])
		}
		if order < 0 {
			gone = append(gone, before[i].key)
		}
		if order > 0 || order == 0 && before[i].value != wanted[j].value {
			keys, values = append(keys, wanted[j].key), append(values, wanted[j].value)
		}
		if order <= 0 {
			i++
		}
		if order >= 0 {
			j++
		}
	}
	*has = wanted
	if err := change(m, gone, keys, values); err != nil {
		return errors.Join(err, empty(m, has))
	}
	return nil
}

func change[K, V any](m *ebpf.Map, gone, keys []K, values []V) error {
	if len(gone) > 0 {
		if _, err := m.BatchDelete(gone, nil); err != nil {
			return err
		}
	}
	if len(keys) > 0 {
		if _, err := m.BatchUpdate(keys, values, nil); err != nil {
			return err
		}
	}
	return nil
}

// empty removes all entries, so that the next update begins with none.
func empty[K, V comparable](m *ebpf.Map, has *[]entry[K, V]) error {
	*has = nil
	var keys []K
	var key K
	var value V
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		keys = append(keys, key)
	}
	if err := entries.Err(); err != nil || len(keys) == 0 {
		return err
	}
	_, err := m.BatchDelete(keys, nil)
	return err
}
