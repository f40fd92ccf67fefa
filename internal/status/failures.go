package status

import (
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"sockstate_exporter/internal/failures"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
)

// A FailuresPage is what /failures shows. Its JSON form is documented in docs/pages.md.
type FailuresPage struct {
	Version         int            `json:"version"`
	Time            time.Time      `json:"time"`
	Failures        []FailureRow   `json:"failures"` // the latest first
	FailuresLeftOut int            `json:"failures_left_out"`
	Lost            *uint64        `json:"lost"` // whose details were lost, since the start
	Parts           []PartReport   `json:"parts"`
	PartsLeftOut    int            `json:"parts_left_out"`
	Features        []sock.Feature `json:"features"`
}

// A FailureRow is a bind() that failed, once or more.
type FailureRow struct {
	First      time.Time   `json:"first"`
	Last       time.Time   `json:"last"`
	AgoSeconds float64     `json:"ago_seconds"` // the last
	Count      uint64      `json:"count"`
	Netns      *string     `json:"netns"` // nil: not a watched one
	NetnsInode uint32      `json:"netns_inode"`
	Watched    bool        `json:"watched"`
	Owner      *Owner      `json:"owner"`
	UID        *uint32     `json:"uid"`
	Address    *netip.Addr `json:"address"` // nil: not known
	Port       *uint16     `json:"port"`
	Ifindex    uint32      `json:"ifindex"`
	Protocol   string      `json:"protocol"`
	Family     string      `json:"family"`
	Errno      string      `json:"errno"`
	ReuseAddr  Flag        `json:"reuseaddr"`
	ReusePort  Flag        `json:"reuseport"`
	Cause      *string     `json:"cause"` // nil: not looked for
	Text       string      `json:"explanation"`
}

func newFailuresPage(s *snapshot.Snapshot, q pageQuery) *FailuresPage {
	page := &FailuresPage{
		Version: Version, Time: stamp(q.now), Failures: []FailureRow{},
		Parts:    append([]PartReport{}, appendPart(nil, "", "bind", s.Binds.Err, s.Binds.Off())...),
		Features: append([]sock.Feature{}, q.features...),
	}
	if s.Binds.Err == nil {
		page.Lost = &s.Binds.Data.Stats.Lost
	}
	names := make(map[uint32]*snapshot.Namespace)
	for ns := range s.Namespaces() {
		names[ns.Inode] = ns
	}
	for i := range s.Binds.Data.Recent {
		f := &s.Binds.Data.Recent[i]
		ns := names[f.Netns]
		if len(q.ports) > 0 && (!f.PortKnown || !q.wantsPort(f.Port)) || q.netns != nil && (ns == nil || !q.wants(ns)) {
			continue
		}
		page.Failures = append(page.Failures, newFailureRow(f, ns, q.now))
	}
	page.Failures, page.FailuresLeftOut = bounded(page.Failures, maxRows)
	return page
}

func newFailureRow(f *failures.Recent, ns *snapshot.Namespace, now time.Time) FailureRow {
	r := FailureRow{
		First: stamp(f.First), Last: stamp(f.Last), AgoSeconds: *seconds(max(now.Sub(f.Last), 0)), Count: f.Count,
		NetnsInode: f.Netns, Watched: f.Watched, Owner: failureOwner(f), Ifindex: f.Request.Ifindex,
		Protocol: f.Protocol.String(), Family: f.Family.String(), Errno: errnoName(f.Errno),
		ReuseAddr: Flag(f.Request.ReuseAddr), ReusePort: Flag(f.Request.ReusePort), Text: whyFailed(f, ns != nil),
	}
	if ns != nil {
		netns := ns.Label()
		r.Netns = &netns
	}
	if f.Request.UID.Known {
		r.UID = &f.Request.UID.ID
	}
	if f.PortKnown {
		r.Address, r.Port = &f.Addr, &f.Port
	}
	if f.Settled {
		cause := f.Cause.String()
		r.Cause = &cause
	}
	return r
}

func errnoName(e syscall.Errno) string {
	if s := failures.ErrnoName(e); s != "" {
		return s
	}
	return fmt.Sprintf("errno %d", int(e))
}

// whyFailed says it in words.
func whyFailed(f *failures.Recent, watched bool) string {
	switch {
	case f.Settled: // EADDRINUSE it is
		return inWords(f.Request, f.Port, f.Blockers, nil)
	case f.Errno == syscall.EADDRINUSE && f.PortKnown && f.Port == 0:
		return "no port of net.ipv4.ip_local_port_range was free for this address"
	case f.Errno == syscall.EADDRINUSE && !watched:
		return "not looked for: the network namespace is not watched"
	case f.Errno == syscall.EADDRINUSE && f.Protocol.String() != "tcp" && f.Protocol.String() != "mptcp":
		return "another socket has the port; which one is looked for with TCP only"
	case f.Errno == syscall.EADDRINUSE:
		return "not looked for, or not yet"
	}
	return errnoWords(f)
}

// errnoWords are what bind(2) means by an error.
func errnoWords(f *failures.Recent) string {
	switch f.Errno {
	case syscall.EADDRNOTAVAIL:
		return "the address is none of this network namespace's: an interface that is not up yet, or another host's address (net.ipv4.ip_nonlocal_bind allows it)"
	case syscall.EACCES:
		if f.PortKnown && f.Port < 1024 {
			return "ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE; a security module can refuse it, too"
		}
		return "a security module (SELinux, AppArmor, a BPF program) refused it"
	case syscall.EPERM:
		return "a security module or a cgroup's BPF program refused it"
	case syscall.EINVAL:
		return "the socket is bound already, or the address makes no sense for it"
	case syscall.EAFNOSUPPORT:
		return "the address is of another family than the socket"
	case syscall.ENODEV:
		return "the interface of the address's scope does not exist"
	case syscall.ENOBUFS, syscall.ENOMEM:
		return "the kernel was short of memory"
	default:
		return ""
	}
}
