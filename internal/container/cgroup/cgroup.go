package owner

import (
	"cmp"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/prometheus/procfs"
)

// A place is the unit and the container in the path of a cgroup.
type place struct {
	unit, runtime, container string

	// The user manager or the container that the unit, or the container, is in: whoever runs in it
	// can choose the name. Empty: it is the system's.
	unitWithin, containerWithin string

	manager bool // it is a service manager's own: init.scope
}

// placeOf reads the unit and the container from the cgroups of a process.
func placeOf(cgroups []procfs.Cgroup) place {
	var p place
	for _, c := range byTrust(cgroups) {
		switch q := parsePath(c.Path); {
		case p.container != "":
			return p
		case q.container != "":
			// A unit that only another hierarchy has is the runtime's own: dockerd with its
			// cgroupfs driver does not use the unified hierarchy.
			p = q
		case p.unit == "":
			p = q
		}
	}
	return p
}

// byTrust puts the hierarchy first that systemd uses for its units: name=systemd on a host with
// cgroup v1, hybrid or not, else the unified one. A container whose runtime does not use systemd's
// driver may be in the others only.
func byTrust(cgroups []procfs.Cgroup) []procfs.Cgroup {
	rank := func(c procfs.Cgroup) int {
		switch {
		case slices.Contains(c.Controllers, "name=systemd"):
			return 0
		case c.HierarchyID == 0:
			return 1
		default:
			return 2
		}
	}
	sorted := slices.Clone(cgroups)
	slices.SortStableFunc(sorted, func(a, b procfs.Cgroup) int { return rank(a) - rank(b) })
	return sorted
}

// maxName is NAME_MAX: no directory has a longer name, and no unit (UNIT_NAME_MAX).
const maxName = 255

// parsePath reads a cgroup's path from the root down.
//
// Only the system's service manager can make a unit directly in the slices at the top. Below that
// unit a cgroup may have any name: delegation lets the unit's own user make them (Delegate= of
// systemd.resource-control(5)). So units below a system unit are ignored, except in user managers
// and containers, which have units of their own. There the innermost one counts, and
// place.unitWithin says that it is not the system's.
func parsePath(path string) place {
	w := walk{inSlices: true}
	// proc_cgroup_show appends this for a process that waits to be reaped.
	for name := range strings.SplitSeq(strings.TrimSuffix(path, " (deleted)"), "/") {
		if name == "" || name == ".." || len(name) > maxName {
			continue // ..: above the root of a cgroup namespace
		}
		w.step(strings.TrimPrefix(name, "_")) // cg_escape of systemd
	}
	return w.place
}

// A walk goes down a path.
type walk struct {
	place
	parent   string // the name before
	inSlices bool   // nothing but slices so far

	// inner is what the next unit or container is within; empty: the system.
	inner string
}

func (w *walk) step(name string) {
	runtime, id := containerOf(w.parent, name)
	switch {
	case id != "":
		w.enterContainer(name, runtime, id)
	case name == "init.scope":
		// The manager of a user or a container is that unit's process.
		if w.inSlices {
			w.unit = name
		}
		w.manager = w.unit != "" || w.container != ""
	case isUnit(name) && (w.inSlices || w.inner != ""):
		w.unit, w.unitWithin, w.manager = name, w.inner, false
		if user, ok := cutBoth(name, "user@", ".service"); ok && w.inSlices {
			w.inner = "user@" + user
		}
	case w.parent == "user" && w.inner == "" && plain(name):
		w.inner = "user@" + name // /user/NAME of pam_cgfs, which belongs to that user
	}
	w.inSlices = w.inSlices && strings.HasSuffix(name, ".slice")
	w.parent = name
}

func (w *walk) enterContainer(name, runtime, id string) {
	w.runtime, w.container, w.containerWithin = runtime, id, w.inner
	switch {
	case isUnit(name) && (w.inSlices || w.inner != ""):
		w.unit, w.unitWithin, w.manager = name, w.inner, false
	case w.unitWithin != w.inner:
		w.unit, w.unitWithin = "", "" // the unit is around the user manager or the outer container
	case strings.Contains(name, ":") || w.inner == "" && strings.HasSuffix(w.unit, ".scope"):
		// Below the runtime itself, which did not understand its parent, or in a user's session.
		w.containerWithin = cmp.Or(w.inner, w.unit)
		w.unit, w.unitWithin = "", ""
	}
	if w.inner == "" {
		w.inner = cmp.Or(w.containerWithin, w.shown().Service())
	}
}

// isUnit reports whether a name is that of a unit with processes. A slice has none: it groups other
// units.
func isUnit(name string) bool {
	if !plain(name) {
		return false
	}
	for _, suffix := range []string{".service", ".scope", ".socket", ".mount", ".swap"} {
		if stem, ok := strings.CutSuffix(name, suffix); ok {
			return stem != ""
		}
	}
	return false
}

// plain reports whether a name has only characters of unit names (VALID_CHARS of systemd). Names
// of containers have no other characters.
func plain(name string) bool {
	for _, c := range []byte(name) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case strings.IndexByte(`:-_.\@`, c) >= 0:
		default:
			return false
		}
	}
	return name != ""
}

// runtimeOf has the runtime for each prefix of a container's cgroup.
var runtimeOf = map[string]string{
	"docker":         RuntimeDocker,
	"cri-containerd": RuntimeContainerd,
	"containerd":     RuntimeContainerd,
	"nerdctl":        RuntimeContainerd,
	"crio":           RuntimeCRIO,
	"libpod":         RuntimePodman,
	"libpod-payload": RuntimePodman, // --cgroups=split
}

// containerOf reads a container from a cgroup's name.
func containerOf(parent, name string) (runtime, id string) {
	if !plain(name) {
		return "", ""
	}
	// docker-ID.scope of systemd's driver, crio-ID and /docker/ID of cgroupfs'
	stem := strings.TrimSuffix(name, ".scope")
	if prefix, id, ok := cutID(stem); ok {
		switch {
		case strings.HasSuffix(prefix, "conmon"):
			return "", "" // watches the container from outside
		case runtimeOf[prefix] != "":
			return runtimeOf[prefix], id
		case prefix == "" && runtimeOf[parent] != "":
			return runtimeOf[parent], id
		default:
			return RuntimeOther, id
		}
	}
	// cri-containerd writes slice:prefix:id where kubelet uses systemd's driver and it does not
	if i := strings.LastIndexByte(name, ':'); i >= 0 && isID(name[i+1:]) {
		return RuntimeContainerd, name[i+1:]
	}
	return machineOf(parent, name)
}

// cutID cuts PREFIX-ID.
func cutID(name string) (prefix, id string, ok bool) {
	if isID(name) {
		return "", name, true
	}
	i := strings.LastIndexByte(name, '-')
	if i < 0 || !isID(name[i+1:]) {
		return "", "", false
	}
	return name[:i], name[i+1:], true
}

// idDigits is the length of an id: 32 bytes, in hexadecimal.
const idDigits = 64

func isID(s string) bool {
	_, err := hex.DecodeString(s)
	return err == nil && len(s) == idDigits
}

// machineOf reads a container that is called by its name.
func machineOf(parent, name string) (runtime, id string) {
	if parent == "lxc" || parent == "lxc.payload" {
		return RuntimeLXC, name
	}
	if id, ok := strings.CutPrefix(name, "lxc.payload."); ok {
		return RuntimeLXC, id
	}
	if id, ok := cutBoth(name, "machine-", ".scope"); ok {
		return RuntimeMachine, unescape(id)
	}
	if id, ok := cutBoth(name, "systemd-nspawn@", ".service"); ok {
		return RuntimeMachine, unescape(id)
	}
	return "", ""
}

func cutBoth(s, prefix, suffix string) (string, bool) {
	s, ok := strings.CutPrefix(s, prefix)
	if !ok {
		return "", false
	}
	s, ok = strings.CutSuffix(s, suffix)
	return s, ok && s != ""
}

// unescape reverses unit_name_escape of systemd: "foo\x2dbar" becomes foo-bar. It changes nothing
// where the result would not be plain.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if rest, ok := strings.CutPrefix(s[i:], `\x`); ok && len(rest) >= 2 {
			if c, err := hex.DecodeString(rest[:2]); err == nil && plain(string(c)) {
				b.Write(c)
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// shown returns the unit and the container as an Owner shows them.
func (p *place) shown() Owner {
	o := Owner{Unit: p.unit, Runtime: p.runtime, Container: p.container}
	if p.unit != "" {
		o.Unit = mark(p.unitWithin, p.unit)
	}
	if p.container != "" {
		o.Within = p.containerWithin
	}
	return o
}

// scopeOf reports whether a unit is only the scope that the runtime made for the container.
func scopeOf(unit, container string) bool {
	if container == "" {
		return false
	}
	_, id := containerOf("", unit)
	return id == container
}
