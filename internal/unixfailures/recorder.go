package unixfailures

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/diagnosis"
	"sockstate_exporter/internal/failures/callers"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/unixsock"
	"sockstate_exporter/internal/unixsock/unixlook"
)

// A Tracer counts failed calls and hands over events: *bindtrace.Tracer.
type Tracer interface {
	UnixCounts(counts []bindtrace.UnixCount) ([]bindtrace.UnixCount, error)
	ReadUnix(deadline time.Time, e *bindtrace.UnixEvent) error
}

// Config says what a Recorder records, and how.
type Config struct {
	Tracer Tracer
	Owners callers.Finder // finds who failed to bind; nil: nobody is known
	Looker Looker         // finds what was in the way; nil: nobody looks

	Proc     string // where procfs is mounted
	OwnNetns uint32 // inode number of the own network namespace

	// OnFailure gets each failure with its diagnosis, at most once in half a minute for each row. nil is
	// not called.
	OnFailure func(Failure)
}

// A Looker looks at Unix sockets: *unixlook.Looker.
type Looker interface {
	Look(context.Context, []unixlook.Query) ([]unixsock.Verdict, error)
}

// A Failure is a bind that failed lately, once or more often: calls that differ only in time and
// process id are one.
type Failure struct {
	Netns     uint32 // inode number of the socket's network namespace
	Own       bool   // it is the exporter's own
	Name      unixsock.Name
	NameKnown bool // the call carried a name
	Type      int  // SOCK_STREAM and so on
	Errno     unix.Errno
	Process   string // its name: any bytes

	Count       uint64
	First, Last time.Time

	// Of the latest.
	PID, UID  uint32
	Owner     owner.Owner // as far as it is known: it may have ended
	Diagnosis diagnosis.Diagnosis
}

// State is what a snapshot shows.
type State struct {
	Counts []bindtrace.UnixCount
	Recent []Failure // the latest first
}

// A Recorder records failed calls. Its methods may be called from any goroutine.
type Recorder struct {
	cfg     Config
	callers *callers.Callers
	mntns   uint32 // inode number of the own mount namespace; 0: not known

	mu      sync.Mutex
	rows    map[rowKey]*row
	seq     uint64
	waiting map[rowKey]bindtrace.UnixEvent
	shares  map[uint32]int // of waiting, by user
	wake    chan struct{}  // holds a token while something waits
}

// New returns a Recorder.
func New(cfg Config) *Recorder {
	if cfg.OnFailure == nil {
		cfg.OnFailure = func(Failure) {}
	}
	if cfg.Proc == "" {
		cfg.Proc = "/proc"
	}
	r := &Recorder{
		cfg: cfg, callers: callers.New(cfg.Owners), rows: make(map[rowKey]*row),
		waiting: make(map[rowKey]bindtrace.UnixEvent), shares: make(map[uint32]int), wake: make(chan struct{}, 1),
	}
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/mnt", &st); err == nil {
		r.mntns = uint32(st.Ino)
	}
	return r
}

// Take returns what is recorded.
func (r *Recorder) Take() (State, error) {
	counts, err := r.cfg.Tracer.UnixCounts(nil)
	if err != nil {
		return State{}, fmt.Errorf("read counts of failed binds: %w", err)
	}
	return State{Counts: counts, Recent: r.recent()}, nil
}

// Follow notes the tracer's events, and looks for what was in the way, until the tracer is closed. It
// leaves nothing running.
func (r *Recorder) Follow() error {
	ctx, cancel := context.WithCancel(context.Background())
	var looking sync.WaitGroup
	looking.Go(func() { r.lookAlways(ctx) })
	defer looking.Wait()
	defer cancel()
	var e bindtrace.UnixEvent
	for {
		switch err := r.cfg.Tracer.ReadUnix(time.Time{}, &e); {
		case errors.Is(err, os.ErrClosed):
			return nil
		case err != nil:
			return err
		}
		r.add(&e)
	}
}

// add notes an event. The tracer bounds how many there are: 128 in a second of each user.
func (r *Recorder) add(e *bindtrace.UnixEvent) {
	by := r.callers.Of(e.Netns, &bindtrace.Event{
		PID: e.PID, Started: e.Started, CgroupID: e.CgroupID, Process: e.Process, User: e.User, Netns: e.Netns,
	})
	r.mu.Lock()
	key := keyOf(e)
	of := r.note(key, e, by)
	var report Failure
	due := false
	if !r.wait(key, e) {
		report, due = of.due(time.Now())
	}
	r.mu.Unlock()
	if due {
		r.cfg.OnFailure(report)
	}
}
