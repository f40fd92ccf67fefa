package collector

import (
	"fmt"
	"strconv"
	"time"

	"sockstate_exporter/internal/snapshot"
)

// otherNetns is the label of all network namespaces that are not watched.
const otherNetns = "other"

// netnsLabel is the name of a namespace: empty for the exporter's own. One that had to be
// changed, or means something else here, gets the namespace's number: two of them may look
// the same now, and a sample that is there twice is an error.
func netnsLabel(ns *snapshot.Namespace) string {
	name := clean(ns.Name)
	if name != ns.Name || name == otherNetns {
		name += "#" + strconv.FormatUint(uint64(ns.Inode), 10)
	}
	return name
}

// A netnsNames has the labels of the watched namespaces by number.
type netnsNames map[uint32]string

func netnsLabels(s *snapshot.Snapshot) netnsNames {
	names := make(netnsNames, 1+len(s.Others))
	for ns := range s.Namespaces() {
		names[ns.Inode] = netnsLabel(ns)
	}
	return names
}

func (n netnsNames) of(inode uint32) string {
	if name, ok := n[inode]; ok {
		return name
	}
	return otherNetns
}

// outcome is how a part went in all namespaces: the longest that it took, and the first
// error, but that it is switched off.
func outcome[T any](s *snapshot.Snapshot, part func(*snapshot.Namespace) *snapshot.Part[T]) (time.Duration, error) {
	own := part(&s.Namespace)
	took, err := own.Duration, own.Err
	if own.Off() {
		return took, err
	}
	for i := range s.Others {
		p := part(&s.Others[i])
		took = max(took, p.Duration)
		if err == nil && p.Err != nil && !p.Off() {
			err = fmt.Errorf("network namespace %q: %w", s.Others[i].Name, p.Err)
		}
	}
	return took, err
}
