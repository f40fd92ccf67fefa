package netns

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/sock"
)

// Config says where a Discoverer looks.
type Config struct {
	Specs []Spec

	// Processes adds the namespace of each running process: that of its first thread.
	Processes bool
	// ContainerOf returns the container of a process, whose namespace is called by it. nil: no process
	// is in one.
	//
	// id is the short id of a container without a name, or the name of a container that only its cgroup has.
	ContainerOf func(pid int) (named sock.Container, id string)

	// Limit is the maximum number of namespaces in a Set. 0 means 1024.
	Limit int

	Dir  string // where names are looked up; "" means /run/netns
	Proc string // where procfs is mounted; "" means /proc
}

const defaultLimit = 1024

// MostNamespaces is how many namespaces a Set has at most by default, with those that are missed.
const MostNamespaces = defaultLimit + maxMissed

// ErrNotNetNS means that a file is not a network namespace. "ip netns" leaves an empty file in
// /run/netns while it creates or deletes a name, and where it mounted the namespace in another
// mount namespace.
var ErrNotNetNS = errors.New("not a network namespace")

// An ID tells a namespace from every other one, also from deleted ones. It is comparable.
type ID struct {
	// Inode is the number in net:[4026531840]. The kernel uses it again.
	Inode uint64
	// Cookie is SO_NETNS_COOKIE. The kernel does not use it again before a reboot. 0: not known.
	Cookie uint64
}

// A Namespace is a network namespace that is held open.
type Namespace struct {
	// Name is unique in its Set and can be a label as it is.
	Name string
	ID   ID

	// Container is the one that the namespace is called by. It is zero where there is none.
	Container sock.Container

	file *os.File
	path string
}

// FD returns the descriptor of the namespace, -1 after Close. The Namespace closes it.
func (n *Namespace) FD() int { return int(n.file.Fd()) }

func (n *Namespace) closed() bool { return n.FD() < 0 }

// Close closes the descriptor. Closing it again does nothing.
func (n *Namespace) Close() error {
	if err := n.file.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("close network namespace %s: %w", n.path, err)
	}
	return nil
}

// A Set is the namespaces that Open found.
type Set struct {
	Namespaces []*Namespace // sorted by name

	// Missed are the namespaces that were there lately and could not be found this time, sorted by
	// name. One that is deleted is in it until Open gives it up.
	Missed []Missed

	// Err says which namespaces Open could not find or enter, and names each path. It is nil where
	// there are none. It may wrap ErrNotNetNS and linux.ErrNeedsSysAdmin. A file that is not a
	// network namespace is in it only from the second time on.
	Err error
	// Unreadable is the number of processes whose namespace the caller may not see.
	Unreadable int
	// Dropped is the number of namespaces beyond Config.Limit.
	Dropped int

	partial bool // there was no room to open all
	unsure  bool // not all places could be looked at
}

// IDs are those of all namespaces, the missed ones included.
func (s *Set) IDs() []ID {
	var all []ID
	for _, ns := range s.Namespaces {
		all = append(all, ns.ID)
	}
	for _, m := range s.Missed {
		all = append(all, m.ID)
	}
	return all
}

// A Missed is a namespace that Open looked for and did not find.
type Missed struct {
	Name string
	ID   ID
}

// Close closes all namespaces of the Set.
func (s *Set) Close() error {
	var errs []error
	for _, n := range s.Namespaces {
		errs = append(errs, n.Close())
	}
	return errors.Join(errs...)
}

// A Discoverer finds network namespaces. It keeps none of them open. It is not safe for concurrent
// use. The Sets that it returns do not depend on it.
type Discoverer struct {
	cfg   Config
	dev   uint64 // device number of nsfs
	own   uint64 // inode number of the own namespace
	known map[ID]*known

	// The paths that were not a network namespace, this time and the time before.
	notNetNS, wasNotNetNS map[string]bool
}

// New returns a Discoverer that leaves out the calling thread's namespace.
func New(cfg Config) (*Discoverer, error) {
	cfg.Limit = cmp.Or(cfg.Limit, defaultLimit)
	cfg.Dir = cmp.Or(cfg.Dir, "/run/netns")
	cfg.Proc = cmp.Or(cfg.Proc, "/proc")
	if cfg.ContainerOf == nil {
		cfg.ContainerOf = func(int) (sock.Container, string) { return sock.Container{}, "" }
	}
	dev, own, err := linux.OwnNetNS()
	if err != nil {
		return nil, err
	}
	return &Discoverer{cfg: cfg, dev: dev, own: own}, nil
}

// Open finds the namespaces that exist now and opens them. The caller must close the Set, or each
// of its namespaces, soon: see the package documentation.
//
// A namespace that is deleted while Open runs is left out. If there are more than the limit, those
// of the last Set come first.
func (d *Discoverer) Open() *Set {
	s := new(Set)
	var errs []error
	fail := func(err error) { errs = append(errs, err) }
	d.wasNotNetNS, d.notNetNS = d.notNetNS, make(map[string]bool)
	found := d.find(s, fail)

	opened := s.enterable(d.openAll(s, found, fail), fail)
	opened = append(opened, d.search(s, opened, fail)...)
	d.name(s, opened)
	d.remember(s, opened, time.Now())
	slices.SortFunc(s.Namespaces, func(a, b *Namespace) int { return strings.Compare(a.Name, b.Name) })
	s.Err = joinSome(errs)
	return s
}

// openAll fills the Set and returns the candidates that are in it.
func (d *Discoverer) openAll(s *Set, found []*candidate, fail func(error)) []*candidate {
	known := d.byInode()
	slices.SortStableFunc(found, func(a, b *candidate) int {
		return cmp.Or(
			compareBool(a.process(), b.process()),
			compareBool(known[a.inode] == nil, known[b.inode] == nil),
		)
	})
	var opened []*candidate
	inSet := map[uint64]bool{d.own: true}
	for i, c := range found {
		if len(opened) == d.cfg.Limit {
			s.Dropped, s.partial = len(found)-i, true
			break
		}
		n, err := d.open(c)
		if err != nil && d.tell(c.path, err) {
			fail(err)
			if outOfFiles(err) {
				s.partial = true
				break // the others would fail for the same reason
			}
		}
		if n == nil {
			continue
		}
		// Not c.inode: the path may be that of another namespace by now.
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

// enterable reads the cookies. It removes the namespaces that the caller may not enter, since
// nothing can be read from them.
func (s *Set) enterable(opened []*candidate, fail func(error)) []*candidate {
	if err := cookies(s.Namespaces); err != nil {
		fail(err)
	}
	s.Namespaces = slices.DeleteFunc(s.Namespaces, (*Namespace).closed)
	return slices.DeleteFunc(opened, func(c *candidate) bool { return c.ns.closed() })
}

// tell reports whether to return an error. While "ip netns add" makes a name, its file is not a
// namespace for a moment. So the error for such a file is returned only the second time.
func (d *Discoverer) tell(path string, err error) bool {
	if !errors.Is(err, ErrNotNetNS) {
		return true
	}
	d.notNetNS[path] = true
	return d.wasNotNetNS[path]
}

// open returns nil and no error where the namespace is gone. Of a process it tries the next one
// where the first has ended, has entered another namespace, or may not be looked at.
func (d *Discoverer) open(c *candidate) (*Namespace, error) {
	if !c.process() {
		return d.openPath(c.path)
	}
	var failed error
	for i, pid := range c.pids {
		n, err := d.openInode(d.pidPath(pid), c.inode)
		if n != nil {
			c.pids = c.pids[i:]
			return n, nil
		}
		if err != nil {
			failed = err
		}
		if outOfFiles(err) {
			break
		}
	}
	return nil, failed
}

// openInode returns nil where the path does not lead to the namespace with that inode number.
func (d *Discoverer) openInode(path string, inode uint64) (*Namespace, error) {
	n, err := d.openPath(path)
	if n != nil && n.ID.Inode != inode {
		_ = n.Close()
		return nil, nil
	}
	return n, err
}

func outOfFiles(err error) bool { return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) }

func (d *Discoverer) openPath(path string) (*Namespace, error) {
	// The file may be a named pipe by now, which O_NONBLOCK does not wait for.
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

// inode checks that the descriptor is a network namespace and returns its inode number.
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
		return 0, fmt.Errorf("%w, but a namespace of another kind (%#x)", ErrNotNetNS, kind)
	}
	return st.Ino, nil
}

// gone reports whether a file does not exist, or belonged to a process that has ended.
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

// maxErrors bounds the errors in a Set: there may be one for each process.
const maxErrors = 10

func joinSome(errs []error) error {
	if more := len(errs) - maxErrors; more > 0 {
		errs = append(errs[:maxErrors:maxErrors], fmt.Errorf("and %d more", more))
	}
	return errors.Join(errs...)
}
