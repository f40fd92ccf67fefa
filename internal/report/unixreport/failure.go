package unixreport

import (
	"cmp"
	"fmt"
	"time"

	"sockstate_exporter/internal/failures"
	"sockstate_exporter/internal/report"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/unixfailures"
	"sockstate_exporter/internal/words"
	"sockstate_exporter/netlinkdiag"
)

// A Failure is a bind of a Unix socket that failed, once or more. docs/pages.md documents its JSON form.
type Failure struct {
	First      time.Time         `json:"first"`
	Last       time.Time         `json:"last"`
	AgoSeconds float64           `json:"ago_seconds"` // the last
	Count      uint64            `json:"count"`
	Netns      *string           `json:"netns"` // nil: not a watched one
	NetnsInode uint32            `json:"netns_inode"`
	Owner      *report.Owner     `json:"owner"`
	UID        uint32            `json:"uid"`
	Name       *string           `json:"name"` // printable; @name is abstract; nil: not known
	Type       string            `json:"type"`
	Errno      string            `json:"errno"`
	Text       string            `json:"explanation"`
	Diagnosis  *report.Diagnosis `json:"diagnosis"` // of the latest
}

// Failures are those of a snapshot, the latest first. wants says which network namespaces are asked for; nil
// stands for one that is not watched.
func Failures(s *snapshot.Snapshot, now time.Time, wants func(*snapshot.Namespace) bool) []Failure {
	out := []Failure{}
	if s.Unix.Failures == nil {
		return out
	}
	names := make(map[uint32]*snapshot.Namespace)
	for ns := range s.Namespaces() {
		names[ns.Inode] = ns
	}
	for i := range s.Unix.Failures.Recent {
		f := &s.Unix.Failures.Recent[i]
		if ns := names[f.Netns]; wants(ns) {
			out = append(out, newFailure(f, ns, now))
		}
	}
	return out
}

func newFailure(f *unixfailures.Failure, ns *snapshot.Namespace, now time.Time) Failure {
	out := Failure{
		First: f.First.UTC().Truncate(time.Millisecond), Last: f.Last.UTC().Truncate(time.Millisecond),
		AgoSeconds: report.Seconds(max(now.Sub(f.Last), 0)), Count: f.Count, NetnsInode: f.Netns,
		// The process may have ended, but its name is always known.
		Owner: &report.Owner{Process: f.Process, PID: f.PID, Processes: 1, Unit: f.Owner.ShownUnit(), Pod: f.Owner.Named.PodName(), Container: f.Owner.ShownContainer()},
		UID:   f.UID, Type: netlinkdiag.UnixType(f.Type).String(),
		Errno: cmp.Or(failures.ErrnoName(f.Errno), fmt.Sprintf("errno %d", int(f.Errno))),
		Text:  f.Diagnosis.Line(), Diagnosis: report.NewDiagnosis(&f.Diagnosis),
	}
	if ns != nil {
		out.Netns = new(ns.Label())
	}
	if f.NameKnown {
		out.Name = new(f.Name.String())
	}
	return out
}

// Where is the path of the call.
func (f *Failure) Where() string {
	if f.Name == nil {
		return "path not known"
	}
	return *f.Name
}

// NetnsText names the network namespace, unless it is the exporter's own.
func (f *Failure) NetnsText() string { return words.NetNS(f.Netns, f.NetnsInode) }

// Explain says in one line why a bind failed.
func Explain(f *unixfailures.Failure) string {
	r := newFailure(f, nil, f.Last)
	return fmt.Sprintf("bind to %s by %s failed: %s", r.Where(), r.Owner.String(), r.Text)
}
