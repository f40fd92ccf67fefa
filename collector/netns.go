package collector

import (
	"errors"
	"fmt"
	"time"

	"sockstate_exporter/internal/metric"
	"sockstate_exporter/internal/snapshot"
)

// netnsNames has the labels of the watched namespaces by inode number.
type netnsNames map[uint32]string

func netnsLabels(s *snapshot.Snapshot) netnsNames {
	names := make(netnsNames, 1+len(s.Others))
	for i := range s.Missed {
		names[s.Missed[i].Inode] = s.Missed[i].Label()
	}
	for ns := range s.Namespaces() {
		names[ns.Inode] = ns.Label()
	}
	return names
}

func (n netnsNames) of(inode uint32) string {
	if name, ok := n[inode]; ok {
		return name
	}
	return snapshot.OtherNetns
}

// A result says how long a part of a snapshot took and, if it is missing, why.
type result struct {
	took time.Duration
	err  error

	// in is the same for one network namespace; nil for a part of the whole host.
	in func(*snapshot.Namespace) (time.Duration, error)
}

// inEach is the result of a part over all namespaces: the longest time and the first error. It
// is off if the part is off in the exporter's own namespace.
func inEach(s *snapshot.Snapshot, in func(*snapshot.Namespace) (time.Duration, error)) result {
	all := result{in: in}
	all.took, all.err = in(&s.Namespace)
	if errors.Is(all.err, snapshot.ErrOff) {
		return all
	}
	for i := range s.Others {
		took, err := in(&s.Others[i])
		all.took = max(all.took, took)
		if all.err == nil && err != nil && !errors.Is(err, snapshot.ErrOff) {
			all.err = fmt.Errorf("network namespace %q: %w", s.Others[i].Name, err)
		}
	}
	return all
}

// netnsFamily shows how many network namespaces are watched beside the exporter's own.
type netnsFamily struct {
	info       *metric.Desc
	watched    *metric.Desc
	dropped    *metric.Desc
	unreadable *metric.Desc
}

func newNetnsFamily() *netnsFamily {
	return &netnsFamily{
		info:       metric.Gauge("netns_info", "1 for each watched network namespace of a container, with its pod.", "netns", "namespace", "pod", "pod_uid", "runtime"),
		watched:    metric.Gauge("watched_namespaces", "Watched network namespaces, not counting the exporter's own."),
		dropped:    metric.Gauge("watched_namespaces_dropped", "Network namespaces that are not watched because there are too many."),
		unreadable: metric.Gauge("namespaces_unreadable_processes", "Processes whose network namespace the exporter is not allowed to see."),
	}
}

func (*netnsFamily) name() string { return "netns" }

func (f *netnsFamily) metrics() []*metric.Desc {
	return []*metric.Desc{f.info, f.watched, f.dropped, f.unreadable}
}

func (*netnsFamily) outcome(s *snapshot.Snapshot) result {
	return result{took: s.Discovery.Duration, err: s.Discovery.Err}
}

// collect shows what was found, even if an error kept the exporter from finding more.
func (f *netnsFamily) collect(s *snapshot.Snapshot, ch *metric.Sink) {
	if s.Discovery.Off() || s.Discovery.Duration == 0 {
		return
	}
	for i := range s.Others {
		if c := s.Others[i].Container; c.String() != "" {
			ch.Put(f.info, 1, s.Others[i].Label(), c.Namespace, c.Pod, c.PodUID, c.Runtime)
		}
	}
	ch.Put(f.watched, float64(len(s.Others)))
	ch.Put(f.dropped, float64(s.Discovery.Data.Dropped))
	ch.Put(f.unreadable, float64(s.Discovery.Data.Unreadable))
}
