package unixfailures

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/diagnosis"
	"sockstate_exporter/internal/diagnosis/unixdiag"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/share"
	"sockstate_exporter/internal/unixsock"
)

// Bounds of the rows, and how many are kept when the bound is reached.
const (
	maxRows  = 64
	keepRows = 32

	// reportEvery is how often a row is reported.
	reportEvery = 30 * time.Second
)

// Failures with the same rowKey are one row.
type rowKey struct {
	netns   uint32
	mntns   uint32
	name    unixsock.Name
	errno   unix.Errno
	process string
}

func keyOf(e *bindtrace.UnixEvent) rowKey {
	return rowKey{e.Netns, e.MountNS, nameOf(e), e.Errno, e.Process}
}

func nameOf(e *bindtrace.UnixEvent) unixsock.Name {
	return unixsock.Name{Path: e.Path, Abstract: e.Abstract}
}

func hasName(e *bindtrace.UnixEvent) bool { return e.Path != "" || e.Abstract }

type row struct {
	Failure

	key      rowKey
	user     uint32
	seq      uint64
	reported time.Time
	fresh    bool // something happened since it was reported
}

// note adds an event to its row.
func (r *Recorder) note(key rowKey, e *bindtrace.UnixEvent, by owner.Owner) *row {
	of := r.rows[key]
	if of == nil {
		if len(r.rows) == maxRows {
			r.trim()
		}
		of = &row{key: key, Failure: Failure{
			Netns: e.Netns, Own: e.Netns == r.cfg.OwnNetns, Name: nameOf(e), NameKnown: hasName(e), Errno: e.Errno, Process: e.Process, First: e.Time,
			Diagnosis: unixdiag.OfCall(nameOf(e), hasName(e), e.Errno),
		}}
		r.rows[key] = of
	}
	r.seq++
	of.seq, of.user, of.fresh = r.seq, e.User, true
	of.Count++
	of.Last, of.PID, of.UID, of.Owner, of.Type = e.Time, e.PID, e.UID, by, e.Type
	return of
}

// trim keeps some rows. Users have equal shares, then network namespaces, and the latest stay.
func (r *Recorder) trim() {
	rows := slices.Collect(maps.Values(r.rows))
	levels := slices.Concat(
		share.ByUser(func(r **row) bindrule.UID { return bindrule.UIDOf((*r).user) }),
		[]func(**row) uint64{func(r **row) uint64 { return uint64((*r).Netns) }},
	)
	share.Fairly(rows, func(a, b **row) int { return cmp.Compare((*b).seq, (*a).seq) }, levels...)
	for _, of := range rows[keepRows:] {
		delete(r.rows, of.key)
	}
}

// due says whether the failure is to be reported now, and returns it.
func (of *row) due(now time.Time) (Failure, bool) {
	if !of.fresh || now.Sub(of.reported) < reportEvery {
		return Failure{}, false
	}
	of.reported, of.fresh = now, false
	return of.Failure, true
}

// settle notes why the failures of a row happened, and reports them if that is due.
func (r *Recorder) settle(key rowKey, d *diagnosis.Diagnosis) {
	r.mu.Lock()
	var report Failure
	due := false
	if of := r.rows[key]; of != nil {
		of.Diagnosis = *d
		report, due = of.due(time.Now())
	}
	r.mu.Unlock()
	if due {
		r.cfg.OnFailure(report)
	}
}

// recent returns copies of the rows, the latest first.
func (r *Recorder) recent() []Failure {
	r.mu.Lock()
	defer r.mu.Unlock()
	rows := slices.SortedFunc(maps.Values(r.rows), func(a, b *row) int { return cmp.Compare(b.seq, a.seq) })
	out := make([]Failure, len(rows))
	for i, of := range rows {
		out[i] = of.Failure
	}
	return out
}
