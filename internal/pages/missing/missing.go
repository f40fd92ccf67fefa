// Package missing says what a page does not show: parts of the snapshot that failed, features that do not work on
// the host, and what an exporter without privileges may not see. It is pure.
package missing

import (
	"cmp"
	"slices"
	"strings"

	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/words"
)

// A Part is a part of the snapshot that is missing, or not whole.
type Part struct {
	Netns string `json:"netns"`
	Part  string `json:"part"`  // as in the collector label of the metrics
	State string `json:"state"` // failed or off
	Error string `json:"error"` // empty if it is off
}

// States of a part.
const (
	Failed = "failed"
	Off    = "off"
)

// maxParts is how many parts a page shows at most.
const maxParts = 20

// A Report says what a page does not show.
type Report struct {
	Parts        []Part         `json:"parts"`
	PartsLeftOut int            `json:"parts_left_out"`
	Features     []sock.Feature `json:"features"`
	Hint         Hint           `json:"-"`
}

// New returns the report of a host with these features.
func New(features []sock.Feature, hint Hint) Report {
	return Report{Parts: []Part{}, Features: append([]sock.Feature{}, features...), Hint: hint}
}

// Bound leaves out all but the first parts.
func (m *Report) Bound() {
	kept := m.Parts[:min(len(m.Parts), maxParts)]
	m.Parts, m.PartsLeftOut = kept, len(m.Parts)-len(kept)
}

// Add takes a part of the snapshot, which may be there.
func (m *Report) Add(netns, part string, err error, off bool) {
	switch {
	case err == nil:
	case off:
		m.Parts = append(m.Parts, Part{Netns: netns, Part: part, State: Off})
	default:
		m.Parts = append(m.Parts, Part{Netns: netns, Part: part, State: Failed, Error: words.OneLine(err.Error())})
	}
}

// AddNetns takes the parts of a namespace.
func (m *Report) AddNetns(ns *snapshot.Namespace) {
	netns := ns.Label()
	m.Add(netns, "watch", ns.Watch.Err, ns.Watch.Off())
	m.Add(netns, "listener", ns.Listeners.Err, ns.Listeners.Off())
	m.Add(netns, "tcp", ns.TCP.Err, ns.TCP.Off())
	m.Add(netns, "reuse", ns.Reuse.Err, ns.Reuse.Off())
	m.Add(netns, "restart", ns.Verdicts.Err, ns.Verdicts.Off())
	m.Add(netns, "udp", cmp.Or(ns.UDP.Err, ns.UDPPorts.Err), ns.UDP.Off())
	m.Add(netns, "ephemeral", ns.Ephemeral.Err, ns.Ephemeral.Off())
	m.Add(netns, "stack", ns.Stack.Err, ns.Stack.Off())
}

// FailedParts are the parts that should be there and are not.
func (m *Report) FailedParts() []string {
	var out []string
	for _, p := range m.Parts {
		if p.State != Failed {
			continue
		}
		where := ""
		if p.Netns != "" {
			where = " in network namespace " + words.Name(p.Netns)
		}
		out = append(out, p.Part+where+": "+p.Error)
	}
	return out
}

// OffParts are the parts that are switched off.
func (m *Report) OffParts() string {
	var out []string
	for _, p := range m.Parts {
		if p.State == Off && !slices.Contains(out, p.Part) {
			out = append(out, p.Part)
		}
	}
	return strings.Join(out, ", ")
}

// LackingFeatures are the features that do not work on this host, and could.
func (m *Report) LackingFeatures() []string {
	var out []string
	for i := range m.Features {
		if f := &m.Features[i]; !f.Works && f.Reason != sock.ReasonNotTraced {
			out = append(out, "On this host: "+Line(f)+".")
		}
	}
	return out
}

// Line says whether a feature works, and how.
func Line(f *sock.Feature) string {
	line, how := f.Name+": works", f.Mode
	if !f.Works {
		line, how = f.Name+": not available", f.Reason
	}
	if how != "" {
		line += " (" + how + ")"
	}
	return words.OneLine(line)
}
