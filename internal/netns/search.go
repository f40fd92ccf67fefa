package netns

import (
	"bufio"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"sockstate_exporter/internal/linux"
)

// search looks again for known namespaces that were not found, and returns those that are still
// there. It does so only where processes are asked for: else the files are what counts.
//
// A namespace may be kept by a process that procfs did not show in the one moment, by a thread
// whose process's first thread has ended, or by nothing but a mount.
func (d *Discoverer) search(s *Set, opened []*candidate, fail func(error)) []*candidate {
	if !d.cfg.Processes || s.partial {
		return nil
	}
	lost, first := d.lost(opened)
	if len(lost) == 0 {
		return nil
	}
	var mounts map[uint64][]string
	var processes map[uint64][]int
	if first { // later on, the usual search finds those that are back
		mounts = d.mounts(lost)
		processes = d.processesIn(func(inode uint64) bool { return lost[inode] != nil })
	}
	found := new(Set)
	var all []*candidate
	for inode, k := range lost {
		if len(opened)+len(all) == d.cfg.Limit {
			s.partial = true
			break
		}
		c := &candidate{inode: inode, rank: len(d.cfg.Specs), pids: k.pids, mount: k.mount}
		for _, w := range d.ways(k, mounts[inode], processes[inode]) {
			n, err := d.openInode(w.path, inode)
			if outOfFiles(err) {
				fail(err)
				s.partial = true
			}
			if n == nil {
				continue
			}
			if w.mount {
				c.mount = w.path
			}
			c.ns = n
			all, found.Namespaces = append(all, c), append(found.Namespaces, n)
			break
		}
	}
	back := found.enterable(all, fail)
	still := back[:0]
	for _, c := range back {
		if d.known[c.ns.ID] == nil { // another one has the number by now
			_ = c.ns.Close()
			continue
		}
		still = append(still, c)
		s.Namespaces = append(s.Namespaces, c.ns)
	}
	return still
}

// lost returns the known namespaces that were not found, by inode number, and whether one was not
// looked for everywhere the last time.
func (d *Discoverer) lost(opened []*candidate) (lost map[uint64]*known, first bool) {
	there := make(map[uint64]bool, len(opened))
	for _, c := range opened {
		there[c.ns.ID.Inode] = true // if it has another cookie, the known one is gone
	}
	lost = make(map[uint64]*known)
	for id, k := range d.known {
		if !there[id.Inode] {
			lost[id.Inode] = k
			first = first || k.misses == 0 || k.unsure
		}
	}
	return lost, first
}

// A way is a path through which a known namespace may be opened.
type way struct {
	path  string
	mount bool
}

// maxThreads is how many threads of a process are looked at.
const maxThreads = 256

func (d *Discoverer) ways(k *known, mounts []string, pids []int) []way {
	var ways []way
	if k.mount != "" {
		ways = append(ways, way{k.mount, true})
	}
	for _, pid := range k.pids {
		ways = append(ways, way{path: d.pidPath(pid)})
		for _, path := range d.threadPaths(pid) {
			ways = append(ways, way{path: path})
		}
	}
	for _, pid := range pids {
		ways = append(ways, way{path: d.pidPath(pid)})
	}
	for _, path := range mounts {
		ways = append(ways, way{path, true})
	}
	return ways
}

func (d *Discoverer) threadPaths(pid int) []string {
	dir := filepath.Join(d.cfg.Proc, strconv.Itoa(pid), "task")
	threads, err := os.ReadDir(dir)
	if err != nil {
		return nil // the process has ended
	}
	var paths []string
	for _, thread := range threads[:min(len(threads), maxThreads)] {
		paths = append(paths, filepath.Join(dir, thread.Name(), "ns/net"))
	}
	return paths
}

// processesIn returns the processes in some namespaces, by inode number.
func (d *Discoverer) processesIn(wanted func(inode uint64) bool) map[uint64][]int {
	in := make(map[uint64][]int)
	pids, _ := linux.PIDs(d.cfg.Proc)
	for _, pid := range pids {
		link, err := os.Readlink(d.pidPath(pid))
		if err != nil {
			continue
		}
		if inode, ok := linux.LinkInode("net", link); ok && wanted(inode) {
			in[inode] = append(in[inode], pid)
		}
	}
	return in
}

// mounts returns where the namespaces with these inode numbers are mounted, as this process and as
// the first process sees it.
func (d *Discoverer) mounts(inodes map[uint64]*known) map[uint64][]string {
	at := make(map[uint64][]string)
	for process, root := range map[string]string{"self": "", "1": filepath.Join(d.cfg.Proc, "1/root")} {
		f, err := os.Open(filepath.Join(d.cfg.Proc, process, "mountinfo"))
		if err != nil {
			continue
		}
		lines := bufio.NewScanner(f)
		lines.Buffer(nil, 1<<20) // options of overlays are long
		for lines.Scan() {
			inode, path, ok := parseMount(lines.Text())
			if ok && inodes[inode] != nil {
				at[inode] = append(at[inode], root+path)
			}
		}
		_ = f.Close()
	}
	return at
}

// parseMount reads a line of mountinfo, proc_pid_mountinfo(5): ID, parent, device, root, mount
// point. The root of a network namespace is "net:[4026531840]".
func parseMount(line string) (inode uint64, path string, ok bool) {
	fields := strings.SplitN(line, " ", 6)
	if len(fields) < 6 {
		return 0, "", false
	}
	inode, ok = linux.LinkInode("net", fields[3])
	// mangle() of fs/proc_namespace.c
	path = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`, `\043`, "#").Replace(fields[4])
	return inode, path, ok
}
