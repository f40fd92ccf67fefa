// Package cgroup finds the paths of cgroups by their ids, and reads the systemd unit and the container of a process
// from the paths of its cgroups.
//
// The documentation of package owner says what counts as a unit and as a container.
package cgroup

import (
	"cmp"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/prometheus/procfs"

	"sockstate_exporter/internal/sock"
)

// A Place is the unit and the container in the path of a cgroup.
type Place struct {
	Unit, Runtime, Container string

	// The user manager or the container that the unit, or the container, is in: whoever runs in it
	// can choose the name. Empty: it is the system's.
	UnitWithin, ContainerWithin string

	PodUID  string // of Kubernetes, if the container is the system's
	Manager bool   // it is a service manager's own: init.scope
}

// ID says which container that is. It is zero where there is none, or one that is not the system's.
func (p *Place) ID() sock.ContainerID {
	if p.ContainerWithin != "" || !isID(p.Container) {
		return sock.ContainerID{}
	}
	return sock.ContainerID{ID: p.Container, Runtime: p.Runtime, PodUID: p.PodUID}
}

// Of reads the unit and the container from the cgroups of a process.
func Of(cgroups []procfs.Cgroup) Place {
	var p Place
	for _, c := range byTrust(cgroups) {
		switch q := Parse(c.Path); {
		case p.Container != "":
			return p
		case q.Container != "":
			// A unit that only another hierarchy has is the runtime's own: dockerd with its
			// cgroupfs driver does not use the unified hierarchy.
			p = q
		case p.Unit == "":
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

// Parse reads a cgroup's path from the root down.
//
// Only the system's service manager can make a unit directly in the slices at the top. Below that
// unit a cgroup may have any name: delegation lets the unit's own user make them (Delegate= of
// systemd.resource-control(5)). So units below a system unit are ignored, except in user managers
// and containers, which have units of their own. There the innermost one counts, and
// Place.UnitWithin says that it is not the system's.
func Parse(path string) Place {
	w := walk{inSlices: true}
	// proc_cgroup_show appends this for a process that waits to be reaped.
	for name := range strings.SplitSeq(strings.TrimSuffix(path, " (deleted)"), "/") {
		if name == "" || name == ".." || len(name) > maxName {
			continue // ..: above the root of a cgroup namespace
		}
		w.step(strings.TrimPrefix(name, "_")) // cg_escape of systemd
	}
	return w.Place
}

// A walk goes down a path.
type walk struct {
	Place
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
			w.Unit = name
		}
		w.Manager = w.Unit != "" || w.Container != ""
	case isUnit(name) && (w.inSlices || w.inner != ""):
		w.Unit, w.UnitWithin, w.Manager = name, w.inner, false
		if user, ok := cutBoth(name, "user@", ".service"); ok && w.inSlices {
			w.inner = "user@" + user
		}
	case w.parent == "user" && w.inner == "" && plain(name):
		w.inner = "user@" + name // /user/NAME of pam_cgfs, which belongs to that user
	}
	if w.inner == "" && w.Unit == "" && w.PodUID == "" {
		w.PodUID = podUIDOf(name)
	}
	w.inSlices = w.inSlices && strings.HasSuffix(name, ".slice")
	w.parent = name
}

func (w *walk) enterContainer(name, runtime, id string) {
	w.Runtime, w.Container, w.ContainerWithin = runtime, id, w.inner
	switch {
	case isUnit(name) && (w.inSlices || w.inner != ""):
		w.Unit, w.UnitWithin, w.Manager = name, w.inner, false
	case w.UnitWithin != w.inner:
		w.Unit, w.UnitWithin = "", "" // the unit is around the user manager or the outer container
	case strings.Contains(name, ":") || w.inner == "" && strings.HasSuffix(w.Unit, ".scope"):
		// Below the runtime itself, which did not understand its parent, or in a user's session.
		w.ContainerWithin = cmp.Or(w.inner, w.Unit)
		w.Unit, w.UnitWithin = "", ""
	}
	if w.inner == "" {
		w.inner = cmp.Or(w.ContainerWithin, w.Shown().Service())
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
	"docker":         sock.RuntimeDocker,
	"cri-containerd": sock.RuntimeContainerd,
	"containerd":     sock.RuntimeContainerd,
	"nerdctl":        sock.RuntimeContainerd,
	"crio":           sock.RuntimeCRIO,
	"libpod":         sock.RuntimePodman,
	"libpod-payload": sock.RuntimePodman, // --cgroups=split
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
			return sock.RuntimeOther, id
		}
	}
	// cri-containerd writes slice:prefix:id where kubelet uses systemd's driver and it does not
	if i := strings.LastIndexByte(name, ':'); i >= 0 && isID(name[i+1:]) {
		return sock.RuntimeContainerd, name[i+1:]
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
		return sock.RuntimeLXC, name
	}
	if id, ok := strings.CutPrefix(name, "lxc.payload."); ok {
		return sock.RuntimeLXC, id
	}
	if id, ok := cutBoth(name, "machine-", ".scope"); ok {
		return sock.RuntimeMachine, unescape(id)
	}
	if id, ok := cutBoth(name, "systemd-nspawn@", ".service"); ok {
		return sock.RuntimeMachine, unescape(id)
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

// podUIDOf reads the uid of a pod from the name of its cgroup: "podUID" of the kubelet's driver cgroupfs,
// "kubepods-burstable-podUID.slice" of its driver systemd, which has "_" for "-". The uid of a static pod
// has no hyphens.
func podUIDOf(name string) string {
	stem, slice := strings.CutSuffix(name, ".slice")
	if i := strings.LastIndex(stem, "-pod"); slice && i >= 0 {
		stem = stem[i+1:]
	} else if slice {
		return ""
	}
	uid, ok := strings.CutPrefix(stem, "pod")
	if !ok {
		return ""
	}
	if slice {
		uid = strings.ReplaceAll(uid, "_", "-")
	}
	bare := strings.ReplaceAll(uid, "-", "")
	if _, err := hex.DecodeString(bare); err != nil || len(bare) != 32 || len(uid) != 32 && len(uid) != 36 {
		return ""
	}
	return uid
}

// Shown is a unit and a container as people see them.
type Shown struct {
	Unit      string // with what it is in, if it is not the system's: "user@1000/x.service"
	Runtime   string
	Container string
	Within    string // what the container is in, if it is not the system's
}

// Shown returns the unit and the container as people see them.
func (p *Place) Shown() Shown {
	s := Shown{Unit: p.Unit, Runtime: p.Runtime, Container: p.Container}
	if p.Unit != "" {
		s.Unit = mark(p.UnitWithin, p.Unit)
	}
	if p.Container != "" {
		s.Within = p.ContainerWithin
	}
	return s
}

// ShortContainer returns the first 12 digits of a container's id, or its name where it has no id. What it
// is in comes first, as in Unit.
func (s Shown) ShortContainer() string {
	if s.Container == "" {
		return ""
	}
	return mark(s.Within, s.shortID())
}

func (s Shown) shortID() string {
	if isID(s.Container) {
		return s.Container[:12]
	}
	return s.Container
}

// OwnUnit returns the unit, unless it is only the scope that the runtime made for the container.
func (s Shown) OwnUnit() string {
	if s.Container != "" && scopeOf(s.Unit[strings.LastIndexByte(s.Unit, '/')+1:], s.Container) {
		return ""
	}
	return s.Unit
}

// Service returns the unit. For a container without a unit of its own it returns runtime and id:
// "docker-0123456789ab".
func (s Shown) Service() string {
	if unit := s.OwnUnit(); unit != "" || s.Container == "" {
		return unit
	}
	return mark(s.Within, s.Runtime+"-"+s.shortID())
}

// mark puts before a name what it is in. No name of a unit or a container has a slash.
func mark(within, name string) string {
	if within == "" {
		return name
	}
	return within + "/" + name
}

// scopeOf reports whether a unit is only the scope that the runtime made for the container.
func scopeOf(unit, container string) bool {
	_, id := containerOf("", unit)
	return id == container
}
