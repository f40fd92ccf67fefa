package unixlook

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/netns"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/unixsock"
	"sockstate_exporter/netlinkdiag"
)

// Owners finds the processes that have sockets open: *owner.Finder.
type Owners interface {
	Find(context.Context, []owner.Socket) (map[uint64]owner.Owner, error)
}

// Config says what a Looker asks.
type Config struct {
	// Own is a descriptor of the network namespace that counts as the own one. 0 is that of the
	// calling thread.
	Own int
	// Others finds the other network namespaces; nil: only the own one is asked.
	Others func() *netns.Set
	// AllProcesses says that Others finds the network namespaces of all processes.
	AllProcesses bool

	Owners     Owners        // nil: nobody is known
	OwnersWait time.Duration // how long to wait for owners, beside what Find itself waits; see Waiting
	Proc       string        // where procfs is mounted; empty: /proc

	// Connect says that a file whose socket was not found is tried with connect(2).
	Connect bool
}

// A Query is a name to look at.
type Query struct {
	Name unixsock.Name
	// Dir is what OpenDir has returned, of a process whose path it is. 0: it is this process's path.
	Dir int
	// Netns is the inode number of the network namespace of an abstract name; 0: the own one.
	Netns uint32
}

// A Looker looks at the places of Unix sockets. Its methods may be called from any goroutine.
type Looker struct {
	cfg Config

	// Paths are those that the administrator has named. Names were chosen by other processes.
	paths, names *patient

	left *memory
}

// New returns a Looker.
func New(cfg Config) *Looker {
	if cfg.Proc == "" {
		cfg.Proc = "/proc"
	}
	return &Looker{cfg: cfg, paths: newPatient(), names: newPatient(), left: new(memory)}
}

// Waiting returns a Looker that waits so long for owners that are not known yet, and shares what l
// remembers.
func (l *Looker) Waiting(wait time.Duration) *Looker {
	out := *l
	out.cfg.OwnersWait = wait
	return &out
}

// errOwnOnly is the lack of a Looker without Others.
var errOwnOnly = errors.New("only the sockets of the exporter's own network namespace were looked at")

// Look looks at all names at one moment, and returns a verdict for each. The error is that of the own
// network namespace: nothing is known of sockets then, and the verdicts say so.
func (l *Looker) Look(ctx context.Context, queries []Query) ([]unixsock.Verdict, error) {
	found := newCollection(queries, l.stat)
	all, err := l.dump(ctx, found)
	l.nameOwners(ctx, found)

	alone := sync.OnceValue(l.alone)
	out := make([]unixsock.Verdict, len(found.places))
	for i := range found.places {
		p := &found.places[i]
		if l.cfg.Others == nil && err == nil && p.orphaned() && alone() {
			all = nil
		}
		seen := unixsock.Seen{Name: p.name, File: p.file, Sockets: l.here(p), Lack: all, Left: l.left.of(&p.file)}
		if p.name.Abstract { // it belongs to one network namespace
			seen.Lack = found.dumped[p.netns]
		}
		v := unixsock.Judge(seen)
		if l.cfg.Connect && v.State == unixsock.Stale {
			seen.Try = Connect(p.name.Path)
			v = unixsock.Judge(seen)
		}
		if len(v.Holders) > 0 {
			l.left.note(&p.file, &v.Holders[0].Owner)
		}
		out[i] = v
	}
	return out, err
}

// stat says what the path of a query leads to.
func (l *Looker) stat(q *Query, path string) unixsock.File {
	if q.Dir != 0 {
		return l.names.wait(func() unixsock.File { return statIn(q.Dir, path) })
	}
	return l.paths.wait(func() unixsock.File { return Stat(path) })
}

// dump collects the sockets of all network namespaces. all says why some may be missing, and own why
// those of the own namespace are.
func (l *Looker) dump(ctx context.Context, to *collection) (all, own error) {
	own = dumpNamespace(ctx, l.cfg.Own, to, "", 0)
	if l.cfg.Others == nil {
		return errors.Join(own, errOwnOnly), own
	}
	set := l.cfg.Others()
	defer set.Close()
	lacks := []error{own, set.Err}
	for _, ns := range set.Namespaces {
		lacks = append(lacks, dumpNamespace(ctx, ns.FD(), to, ns.Name, uint32(ns.ID.Inode)))
	}
	switch {
	case !l.cfg.AllProcesses:
		lacks = append(lacks, errors.New("only the sockets of watched network namespaces were looked at"))
	case set.Unreadable > 0:
		lacks = append(lacks, fmt.Errorf("the network namespaces of %d processes may not be seen: needs CAP_SYS_PTRACE", set.Unreadable))
	case set.Dropped > 0 || len(set.Missed) > 0:
		lacks = append(lacks, fmt.Errorf("%d network namespaces were not looked at", set.Dropped+len(set.Missed)))
	case !linux.InInitPIDNamespace(l.cfg.Proc):
		lacks = append(lacks, errors.New("processes outside of this pid namespace cannot be seen"))
	}
	return errors.Join(lacks...), own
}

// alone says whether all processes are in the own network namespace, so that there is no other one to look
// at. It is false where it cannot tell.
func (l *Looker) alone() bool {
	pids, err := linux.PIDs(l.cfg.Proc)
	own, ownErr := os.Stat(filepath.Join(l.cfg.Proc, "self/ns/net"))
	if err != nil || ownErr != nil || l.cfg.Own != 0 || !linux.InInitPIDNamespace(l.cfg.Proc) {
		return false
	}
	for _, pid := range pids {
		of, err := os.Stat(filepath.Join(l.cfg.Proc, strconv.Itoa(pid), "ns/net"))
		switch {
		case errors.Is(err, os.ErrNotExist): // it has ended
		case err != nil, !os.SameFile(own, of):
			return false
		}
	}
	return true
}

func dumpNamespace(ctx context.Context, fd int, to *collection, name string, inode uint32) (err error) {
	defer func() { to.dumped[inode] = err }()
	c, err := netlinkdiag.Dial(&netlinkdiag.Config{NetNS: fd})
	if err != nil {
		return err
	}
	defer c.Close()
	begin := to.mark()
	for s, err := range c.DumpUnix(ctx, netlinkdiag.UnixRequest{}) {
		switch {
		case errors.Is(err, netlinkdiag.ErrRestarted):
			to.reset(begin)
		case err != nil:
			return err
		default:
			to.add(&s, name, inode)
		}
	}
	return nil
}

// nameOwners finds the owners of what was collected.
func (l *Looker) nameOwners(ctx context.Context, c *collection) {
	sockets := c.owned()
	if l.cfg.Owners == nil || len(sockets) == 0 {
		return
	}
	owners, _ := l.cfg.Owners.Find(ctx, sockets) // what is not known is left out
	for until := time.Now().Add(l.cfg.OwnersWait); len(owners) < len(sockets) && ctx.Err() == nil && time.Now().Before(until); {
		time.Sleep(findAgain)
		owners, _ = l.cfg.Owners.Find(ctx, sockets)
	}
	for i := range c.places {
		for j := range c.places[i].sockets {
			s := &c.places[i].sockets[j]
			s.Owner = owners[s.Cookie]
		}
	}
}

// findAgain is a pause between two questions for owners that are not known yet.
const findAgain = 20 * time.Millisecond

// here returns the sockets of a place that have its file, or that have its name in its directory.
func (l *Looker) here(p *place) []unixsock.Socket {
	var out []unixsock.Socket
	for i := range p.sockets {
		s := p.sockets[i]
		if p.name.Abstract || p.file.Is(&s.UnixSocket) {
			out = append(out, s)
			continue
		}
		if pid := s.Owner.PID; pid != 0 {
			dir := l.statFor(pid, directoryOf(s.Name))
			if dir.Kind != unixsock.FileUnknown && !same(&dir, &p.dir) {
				continue
			}
			s.There = l.statFor(pid, s.Name)
		}
		if s.There.Kind != unixsock.FileUnknown || s.Name == p.name.Path {
			out = append(out, s)
		}
	}
	return out
}

func (l *Looker) statFor(pid int, path string) unixsock.File {
	return l.names.wait(func() unixsock.File { return StatFor(l.cfg.Proc, pid, path) })
}

// directoryOf is the directory of a path. The dot makes a symbolic link to it be followed.
func directoryOf(path string) string { return filepath.Dir(path) + "/." }

func same(a, b *unixsock.File) bool {
	return a.Kind == unixsock.FileOther && b.Kind == unixsock.FileOther && a.Inode == b.Inode && a.Major == b.Major && a.Minor == b.Minor
}
