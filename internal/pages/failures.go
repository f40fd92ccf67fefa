package pages

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/failures"
	"sockstate_exporter/internal/pages/missing"
	"sockstate_exporter/internal/report"
	"sockstate_exporter/internal/report/unixreport"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/words"
)

// A FailuresPage is what /failures shows. docs/pages.md documents its JSON form.
type FailuresPage struct {
	page
	Failures        []FailureRow         `json:"failures"` // the latest first
	FailuresLeftOut int                  `json:"failures_left_out"`
	Unix            []unixreport.Failure `json:"unix"` // the latest first
	Lost            *uint64              `json:"lost"` // failures whose details were lost, since the start
	missing.Report
}

// A FailureRow is a call that failed, once or more.
type FailureRow struct {
	Call       string        `json:"call"`
	First      time.Time     `json:"first"`
	Last       time.Time     `json:"last"`
	AgoSeconds float64       `json:"ago_seconds"` // the last
	Count      uint64        `json:"count"`
	Netns      *string       `json:"netns"` // nil: not a watched one
	NetnsInode uint32        `json:"netns_inode"`
	Watched    bool          `json:"watched"`
	Owner      *report.Owner `json:"owner"`
	UID        *uint32       `json:"uid"`
	Address    *netip.Addr   `json:"address"` // nil: not known
	Port       *uint16       `json:"port"`
	Ifindex    uint32        `json:"ifindex"`
	Protocol   string        `json:"protocol"`
	Family     string        `json:"family"`
	Errno      string        `json:"errno"`
	ReuseAddr  bindrule.Flag `json:"reuseaddr"`
	ReusePort  bindrule.Flag `json:"reuseport"`
	Text       string        `json:"explanation"`
	// Diagnosis of the latest; nil: nothing is known.
	Diagnosis *report.Diagnosis `json:"diagnosis"`
}

func newFailuresPage(s *snapshot.Snapshot, q request) *FailuresPage {
	p := &FailuresPage{page: newPage("failures", q), Failures: []FailureRow{}, Report: missing.New(q.features, q.hint)}
	p.Add("", "bind", s.Binds.Err, s.Binds.Off())
	if s.Binds.Err == nil {
		p.Lost = &s.Binds.Data.Stats.Lost
	}
	names := make(map[uint32]*snapshot.Namespace)
	for i := range s.Missed {
		names[s.Missed[i].Inode] = &s.Missed[i]
	}
	for ns := range s.Namespaces() {
		names[ns.Inode] = ns
	}
	for i := range s.Binds.Data.Recent {
		f := &s.Binds.Data.Recent[i]
		ns := names[f.Netns]
		if len(q.Ports) > 0 && (!f.PortKnown || !q.WantsPort(f.Port)) || q.Netns != nil && (ns == nil || !q.WantsNetns(ns)) {
			continue
		}
		p.Failures = append(p.Failures, newFailureRow(f, ns, q.now))
	}
	p.Failures, p.FailuresLeftOut = bounded(p.Failures, maxFailures)
	p.Unix = unixreport.Failures(s, q.now, func(ns *snapshot.Namespace) bool {
		return len(q.Ports) == 0 && (q.Netns == nil || ns != nil && q.WantsNetns(ns))
	})
	return p
}

func newFailureRow(f *failures.Recent, ns *snapshot.Namespace, now time.Time) FailureRow {
	d := f.Diagnosis()
	r := FailureRow{
		Call: f.Op.String(), First: stamp(f.First), Last: stamp(f.Last), AgoSeconds: report.Seconds(max(now.Sub(f.Last), 0)), Count: f.Count,
		NetnsInode: f.Netns, Watched: f.Watched, Ifindex: f.Request.Ifindex,
		// The process may have ended, but its name is always known.
		Owner:    &report.Owner{Process: f.Process, PID: f.PID, Processes: 1, Unit: f.Owner.ShownUnit(), Pod: f.Owner.Named.PodName(), Container: f.Owner.ShownContainer()},
		Protocol: f.Protocol.String(), Family: f.Family.String(),
		Errno:     cmp.Or(failures.ErrnoName(f.Errno), fmt.Sprintf("errno %d", int(f.Errno))),
		ReuseAddr: f.Request.ReuseAddr, ReusePort: f.Request.ReusePort, Text: d.Line(), Diagnosis: report.NewDiagnosis(&d),
	}
	if ns != nil {
		r.Netns = new(ns.Label())
	}
	if f.Request.UID.Known {
		r.UID = &f.Request.UID.ID
	}
	if f.PortKnown {
		r.Address, r.Port = &f.Addr, &f.Port
	}
	return r
}

// Title is the title of the page.
func (*FailuresPage) Title() string { return "Failed binds" }

// Summary says what the page is about.
func (*FailuresPage) Summary() string {
	return "Calls on this host that failed since the exporter started, the latest first: bind(), listen() where another socket listens, " +
		"and connect() without a local port. Repeats are one line."
}

// A Section is a table.
type Section struct {
	Title string
	Rows  []*FailureRow
}

// Sections are the failures in the exporter's own network namespace and then those in others, on watched ports
// and then on others, so that many failures elsewhere do not hide those that matter here.
func (p *FailuresPage) Sections() []Section {
	all := []Section{
		{Title: "On watched ports"}, {Title: "On other ports"},
		{Title: "In other network namespaces, on watched ports"}, {Title: "In other network namespaces, on other ports"},
	}
	for i := range p.Failures {
		r, at := &p.Failures[i], 0
		if !r.Watched {
			at++
		}
		if !r.own() {
			at += 2
		}
		all[at].Rows = append(all[at].Rows, r)
	}
	return slices.DeleteFunc(all, func(s Section) bool { return len(s.Rows) == 0 })
}

// EmptyText says why there is no failure.
func (p *FailuresPage) EmptyText() string {
	switch {
	case len(p.Parts) > 0:
		return "Whether binds have failed is not known."
	case p.Filtered():
		return "No failed bind like that since the exporter started."
	default:
		return "No bind has failed since the exporter started."
	}
}

// LostText says how many failures the page cannot show.
func (p *FailuresPage) LostText() string {
	if p.Lost == nil || *p.Lost == 0 {
		return ""
	}
	return fmt.Sprintf("Details of %d more were lost: they came too fast.", *p.Lost)
}

// own says that it is in the exporter's own network namespace.
func (r *FailureRow) own() bool { return r.Netns != nil && *r.Netns == "" }

// Where is the address and port of the call. Those of connect() are the destination's.
func (r *FailureRow) Where() string {
	if r.Port == nil {
		return "address not known"
	}
	where := netip.AddrPortFrom(*r.Address, *r.Port).String()
	if r.Ifindex != 0 {
		where += fmt.Sprintf(" on interface %d", r.Ifindex)
	}
	return where
}

// NetnsText names the network namespace, unless it is the exporter's own.
func (r *FailureRow) NetnsText() string { return words.NetNS(r.Netns, r.NetnsInode) }

// Flags are remarks on the socket.
func (r *FailureRow) Flags() []Tag {
	if r.Errno != "EADDRINUSE" {
		return nil
	}
	return flagTags(r.ReuseAddr, r.ReusePort)
}
