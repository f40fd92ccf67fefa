package netns

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/linux"
)

// Config says where a Discoverer looks.
type Config struct {
	Specs []Spec

	// Processes: also the namespace of each running process. It is that of the
	// process's first thread.
	Processes bool
	// NameOf names the namespace that a process is in, after its container for
	// instance; "" if there is nothing to name it after. nil: of none.
	NameOf func(pid int) string

	// Limit bounds how many namespaces there are in a Set. 0 means 1024.
	Limit int

	Dir  string // of names, "" means /run/netns
	Proc string // procfs, "" means /proc
}

const defaultLimit = 1024

// ErrNotNetNS is of a file that is there, and is not a network namespace. An
// empty file in /run/netns is one that "ip netns" is just about to create or
// delete, or one that it mounted in another mount namespace.
var ErrNotNetNS = errors.New("not a network namespace")

// An ID tells a namespace from every other, those that are gone included. It
// is comparable.
type ID struct {
	// Inode is the number in net:[4026531840]. It is reused.
	Inode uint64
	// Cookie is SO_NETNS_COOKIE: not reused before a reboot. 0: unknown.
	Cookie uint64
}

// A Namespace is a network namespace that is held open.
type Namespace struct {
	// Name is unique in its Set, and fit for a label.
	Name string
	ID   ID

	file *os.File
	path string
}

// FD is the descriptor of the namespace, -1 after Close. It stays the
// Namespace's.
func (n *Namespace) FD() int { return int(n.file.Fd()) }

func (n *Namespace) closed() bool { return n.FD() < 0 }

// Close lets go of the namespace. Closing it again does nothing.
func (n *Namespace) Close() error {
	if err := n.file.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("close network namespace %s: %w", n.path, err)
	}
	return nil
}

// A Set is what Open has found.
type Set struct {
	Namespaces []*Namespace // by name

	// Err is what kept Open from finding more, nil if nothing did. It wraps
	// ErrNotNetNS, of what was none the last time either, and linux.ErrNeedsSysAdmin, and
	// names each path.
	Err error
	// Unreadable is the processes whose namespace the caller may not see.
	Unreadable int
	// Dropped is the namespaces beyond Config.Limit.
	Dropped int
}

// Close closes all of them.
func (s *Set) Close() error {
	var errs []error
	for _, n := range s.Namespaces {
		errs = append(errs, n.Close())
	}
	return errors.Join(errs...)
}

// A Discoverer finds network namespaces. It holds none of them open. It is not
// safe for concurrent use; the Sets that it returns stand on their own.
type Discoverer struct {
	cfg   Config
	dev   uint64 // of nsfs: there is one
	own   uint64 // inode
	known map[uint64]bool
	names map[ID]string

	// The paths that were no network namespace, this time and the time before.
	alien, wasAlien map[string]bool
}

// New returns a Discoverer. The calling thread's namespace is the one that
// it leaves out.
func New(cfg Config) (*Discoverer, error) {
	cfg.Limit = cmp.Or(cfg.Limit, defaultLimit)
	cfg.Dir = cmp.Or(cfg.Dir, "/run/netns")
	cfg.Proc = cmp.Or(cfg.Proc, "/proc")
	if cfg.NameOf == nil {
		cfg.NameOf = func(int) string { return "" }
	}
	dev, own, err := linux.OwnNetNS()
	if err != nil {
		return nil, err
	}
	return &Discoverer{cfg: cfg, dev: dev, own: own}, nil
}

// Open finds the namespaces of the moment and opens them. The caller closes
// the Set, or each of its namespaces, soon: see the package.
//
// What has gone is left out, be it while Open runs. If there are more than the
// limit, those that were there last time have precedence.
func (d *Discoverer) Open() *Set {
	s := new(Set)
	var errs []error
	fail := func(err error) { errs = append(errs, err) }
	d.wasAlien, d.alien = d.alien, make(map[string]bool)
	found := d.find(s, fail)

	opened := s.enterable(d.openAll(s, found, fail), fail)
	d.name(opened)
	d.remember(opened)
	slices.SortFunc(s.Namespaces, func(a, b *Namespace) int { return strings.Compare(a.Name, b.Name) })
	s.Err = joinSome(errs)
	return s
}

// openAll fills the Set, and returns those candidates that are in it.
func (d *Discoverer) openAll(s *Set, found []*candidate, fail func(error)) []*candidate {
	slices.SortStableFunc(found, func(a, b *candidate) int {
		return cmp.Or(
			compareBool(a.process(), b.process()),
			compareBool(!d.known[a.inode], !d.known[b.inode]),
		)
	})
	var opened []*candidate
	inSet := map[uint64]bool{d.own: true}
	for i, c := range found {
		if len(opened) == d.cfg.Limit {
			s.Dropped = len(found) - i
			break
		}
		n, err := d.open(c)
		if err != nil && d.tell(c.path, err) {
			fail(err)
			if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
				break // the rest would say the same
			}
		}
		if n == nil {
			continue
		}
		// Not c's own number, if the path was given another one since.
		if inSet[n.ID.Inode] {
			_ = n.Close()
			continue
		}
		inSet[n.ID.Inode] = true
		c.ns = n
		opened = append(opened, c)
		s.Namespaces = append(s.Namespaces, n)
	}
	return opened
}

// enterable reads the cookies, and takes those out that the caller may not enter, which nothing
// can be read of.
func (s *Set) enterable(opened []*candidate, fail func(error)) []*candidate {
	if err := cookies(s.Namespaces); err != nil {
		fail(err)
	}
	s.Namespaces = slices.DeleteFunc(s.Namespaces, (*Namespace).closed)
	return slices.DeleteFunc(opened, func(c *candidate) bool { return c.ns.closed() })
}

// tell says whether an error is worth it. A name that "ip netns add" is about to make is no
// namespace for an instant.
func (d *Discoverer) tell(path string, err error) bool {
	if !errors.Is(err, ErrNotNetNS) {
		return true
	}
	d.alien[path] = true
	return d.wasAlien[path]
}

// remember forgets what is no more.
func (d *Discoverer) remember(opened []*candidate) {
	d.known = make(map[uint64]bool, len(opened))
	d.names = make(map[ID]string)
	for _, c := range opened {
		d.known[c.ns.ID.Inode] = true
		if c.process() && c.short != "" && c.ns.ID.Cookie != 0 {
			d.names[c.ns.ID] = c.short
		}
	}
}

// open returns nil without an error for what is gone.
func (d *Discoverer) open(c *candidate) (*Namespace, error) {
	if !c.process() {
		return d.openPath(c.path)
	}
	for _, pid := range c.pids {
		n, err := d.openPath(d.pidPath(pid))
		if err != nil {
			return nil, err
		}
		if n != nil && n.ID.Inode == c.inode {
			return n, nil
		}
		if n != nil { // the process moved, or is another one
			_ = n.Close()
		}
	}
	return nil, nil
}

func (d *Discoverer) openPath(path string) (*Namespace, error) {
	// O_NONBLOCK: it may be a named pipe by now.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	switch {
	case gone(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	n := &Namespace{file: os.NewFile(uintptr(fd), path), path: path}
	if n.ID.Inode, err = d.inode(fd); err != nil {
		_ = n.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return n, nil
}

// inode checks that it is a network namespace.
func (d *Discoverer) inode(fd int) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, fmt.Errorf("fstat: %w", err)
	}
	if st.Dev != d.dev {
		return 0, ErrNotNetNS
	}
	kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err != nil {
		return 0, fmt.Errorf("ioctl NS_GET_NSTYPE: %w", err)
	}
	if kind != unix.CLONE_NEWNET {
		return 0, fmt.Errorf("%w, but one of another kind (%#x)", ErrNotNetNS, kind)
	}
	return st.Ino, nil
}

// gone: a file that is not there, or was of a process that is not.
func gone(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) }

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// maxErrors bounds how many errors are told: there may be one for each process.
const maxErrors = 10

func joinSome(errs []error) error {
	if more := len(errs) - maxErrors; more > 0 {
		errs = append(errs[:maxErrors:maxErrors], fmt.Errorf("and %d more", more))
	}
	return errors.Join(errs...)
}
