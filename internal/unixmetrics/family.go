// Package unixmetrics makes metrics of Unix sockets: failed binds, and what is at the watched paths.
package unixmetrics

import (
	"cmp"
	"slices"

	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/failures"
	"sockstate_exporter/internal/metric"
	"sockstate_exporter/internal/unixsock"
	"sockstate_exporter/internal/unixstate"
	"sockstate_exporter/internal/unixwatch"
	"sockstate_exporter/netlinkdiag"
)

// A Family defines the metrics.
type Family struct {
	failures   *metric.Desc
	info       *metric.Desc
	queue      *metric.Desc
	queueLimit *metric.Desc
	stale      *metric.Desc
	unreached  *metric.Desc
	dropped    *metric.Desc
}

// New returns a Family.
func New() *Family {
	return &Family{
		failures: metric.Counter("unix_bind_failures_total",
			"Failed bind() calls of Unix sockets, by error.", "netns", "errno"),
		info: metric.Gauge("unix_listener_info",
			"1 for each watched path with a socket, with the process and the systemd unit or container that has it open.",
			"path", "netns", "type", "process", "unit", "container"),
		queue: metric.Gauge("unix_listener_accept_queue",
			"Connections that wait for accept() on the path.", "path"),
		queueLimit: metric.Gauge("unix_listener_accept_queue_limit",
			"Connections that may wait for accept() on the path.", "path"),
		stale: metric.Gauge("unix_path_stale",
			"1 if the watched path has the file of a socket that nobody has open, 0 if not.", "path"),
		unreached: metric.Gauge("unix_path_unreached_listeners",
			"Sockets that were bound to the watched path and that no client reaches, by diagnosis.", "path", "diagnosis"),
		dropped: metric.Gauge("unix_paths_dropped",
			"Paths that --watch.unix matches and that are not watched because there are too many."),
	}
}

// Metrics are the definitions.
func (f *Family) Metrics() []*metric.Desc {
	return []*metric.Desc{f.failures, f.info, f.queue, f.queueLimit, f.stale, f.unreached, f.dropped}
}

// Collect puts the samples of a state. netns names network namespaces by inode number.
func (f *Family) Collect(s *unixstate.State, netns func(uint32) string, ch *metric.Sink) {
	if s.Failures != nil {
		f.collectFailures(s, netns, ch)
	}
	if s.Watch == nil || s.Watch.Err != nil {
		return
	}
	for i := range s.Watch.Paths {
		f.collectPath(&s.Watch.Paths[i], ch)
	}
	ch.Put(f.dropped, float64(s.Watch.Dropped))
}

type call struct{ netns, errno string }

func (f *Family) collectFailures(s *unixstate.State, netns func(uint32) string, ch *metric.Sink) {
	counts := make(map[call]uint64)
	var calls []call
	for _, c := range s.Failures.Counts {
		of := call{netns(c.Netns), cmp.Or(failures.ErrnoName(c.Errno), "other")}
		if _, ok := counts[of]; !ok {
			calls = append(calls, of)
		}
		counts[of] += c.N
	}
	slices.SortFunc(calls, func(a, b call) int { return cmp.Or(cmp.Compare(a.netns, b.netns), cmp.Compare(a.errno, b.errno)) })
	for _, c := range calls {
		ch.Put(f.failures, float64(counts[c]), c.netns, c.errno)
	}
}

func (f *Family) collectPath(p *unixwatch.Path, ch *metric.Sink) {
	path := p.Name.String()
	if len(p.Holders) > 0 {
		s := &p.Holders[0]
		process, unit, container := s.Owner.Labels(s.Owner.Process)
		ch.Put(f.info, 1, path, s.Netns, s.Type.String(), process, unit, container)
		if s.State == netlinkdiag.StateListen {
			ch.Put(f.queue, float64(s.RQueue), path)
			ch.Put(f.queueLimit, float64(s.WQueue), path)
		}
	}
	if !p.Name.Abstract && p.State != unixsock.Unknown && (p.State != unixsock.Stale || p.Certain()) {
		ch.Put(f.stale, metric.Bool(p.State == unixsock.Stale), path)
	}
	shadowed, unlinked := len(p.CutOff), 0
	if len(p.Holders) == 0 {
		shadowed, unlinked = 0, len(p.CutOff)
	}
	if p.Shadowed {
		ch.Put(f.unreached, float64(shadowed), path, string(codes.UnixShadowed))
	}
	if p.Unlinked {
		ch.Put(f.unreached, float64(unlinked), path, string(codes.UnixUnlinked))
	}
}
