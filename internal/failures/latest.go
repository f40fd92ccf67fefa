package failures

import (
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/share"
)

// A Failure is a failed bind().
type Failure struct {
	Key
	Time      time.Time
	Errno     unix.Errno
	ReuseAddr bool   // the socket had SO_REUSEADDR
	Process   string // its name: any bytes

	// Owner is the process, as far as that is known: it may have ended.
	Owner owner.Owner

	// Diagnosis is empty until the exporter has looked at the port. Until then it is that of the
	// failure before, if the same thing failed in the same way.
	Diagnosis codes.Code
}

// repeats says whether the same thing failed in the same way.
func (f *Failure) repeats(before *Failure) bool {
	return f.Errno == before.Errno && f.ReuseAddr == before.ReuseAddr && f.Process == before.Process
}

// latest has the latest failure of each key.
type latest struct {
	mu       sync.Mutex
	failures map[Key]Failure
	names    map[Key]*share.Names // of those who failed
}

func newLatest() *latest {
	return &latest{failures: make(map[Key]Failure), names: make(map[Key]*share.Names)}
}

// add takes a failure. code is empty if its diagnosis is not known yet.
func (l *latest) add(key Key, e *bindtrace.Event, by owner.Owner, code codes.Code) {
	l.mu.Lock()
	defer l.mu.Unlock()
	names, ok := l.names[key]
	if !ok {
		names = new(share.Names)
		l.names[key] = names
	}
	by.Many = names.Add(e.Time, e.User, e.Process, by.Place())
	f := Failure{Key: key, Time: e.Time, Errno: e.Errno, ReuseAddr: e.ReuseAddr, Process: e.Process, Owner: by, Diagnosis: code}
	if before := l.failures[key]; code == "" && f.repeats(&before) {
		f.Diagnosis = before.Diagnosis
	}
	l.failures[key] = f
}

// settle takes the diagnosis of a failure that has been looked at.
func (l *latest) settle(key Key, e *bindtrace.Event, code codes.Code) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f, ok := l.failures[key]
	of := Failure{Errno: e.Errno, ReuseAddr: e.ReuseAddr, Process: e.Process}
	if ok && of.repeats(&f) {
		f.Diagnosis = code
		l.failures[key] = f
	}
}

// keep forgets the failures of other keys.
func (l *latest) keep(wanted func(Key) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.failures, func(key Key, _ Failure) bool { return !wanted(key) })
	maps.DeleteFunc(l.names, func(key Key, _ *share.Names) bool { return !wanted(key) })
}

func (l *latest) all() []Failure {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.SortedFunc(maps.Values(l.failures), func(a, b Failure) int { return a.compare(b.Key) })
}
