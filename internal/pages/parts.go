package pages

import (
	"cmp"
	"html/template"
	"slices"
	"strings"

	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/words"
)

// A PartReport is a part of the snapshot that is missing, or not whole.
type PartReport struct {
	Netns string `json:"netns"`
	Part  string `json:"part"`  // as in the collector label of the metrics
	State string `json:"state"` // failed or off
	Error string `json:"error"` // empty if it is off
}

const (
	partFailed = "failed"
	partOff    = "off"
)

// missing says what a page does not show.
type missing struct {
	Parts        []PartReport   `json:"parts"`
	PartsLeftOut int            `json:"parts_left_out"`
	Features     []sock.Feature `json:"features"`
}

func newMissing(features []sock.Feature) missing {
	return missing{Parts: []PartReport{}, Features: append([]sock.Feature{}, features...)}
}

// add takes a part of the snapshot, which may be there.
func (m *missing) add(netns, part string, err error, off bool) {
	switch {
	case err == nil:
	case off:
		m.Parts = append(m.Parts, PartReport{Netns: netns, Part: part, State: partOff})
	default:
		m.Parts = append(m.Parts, PartReport{Netns: netns, Part: part, State: partFailed, Error: words.OneLine(err.Error())})
	}
}

// addNetns takes the parts of a namespace.
func (m *missing) addNetns(ns *snapshot.Namespace) {
	netns := ns.Label()
	m.add(netns, "watch", ns.Watch.Err, ns.Watch.Off())
	m.add(netns, "listener", ns.Listeners.Err, ns.Listeners.Off())
	m.add(netns, "tcp", ns.TCP.Err, ns.TCP.Off())
	m.add(netns, "reuse", ns.Reuse.Err, ns.Reuse.Off())
	m.add(netns, "restart", ns.Verdicts.Err, ns.Verdicts.Off())
	m.add(netns, "udp", cmp.Or(ns.UDP.Err, ns.UDPPorts.Err), ns.UDP.Off())
	m.add(netns, "ephemeral", ns.Ephemeral.Err, ns.Ephemeral.Off())
	m.add(netns, "stack", ns.Stack.Err, ns.Stack.Off())
}

// FailedParts are the parts that should be there and are not.
func (m *missing) FailedParts() []string {
	var out []string
	for _, p := range m.Parts {
		if p.State != partFailed {
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
func (m *missing) OffParts() string {
	var out []string
	for _, p := range m.Parts {
		if p.State == partOff && !slices.Contains(out, p.Part) {
			out = append(out, p.Part)
		}
	}
	return strings.Join(out, ", ")
}

// LackingFeatures are the features that do not work on this host, and could.
func (m *missing) LackingFeatures() []string {
	var out []string
	for i := range m.Features {
		if f := &m.Features[i]; !f.Works && f.Reason != sock.ReasonNotTraced {
			out = append(out, "On this host: "+featureLine(f)+".")
		}
	}
	return out
}

// featureLine says whether a feature works, and how.
func featureLine(f *sock.Feature) string {
	line, how := f.Name+": works", f.Mode
	if !f.Works {
		line, how = f.Name+": not available", f.Reason
	}
	if how != "" {
		line += " (" + how + ")"
	}
	return words.OneLine(line)
}

// FeatureList is a piece of HTML that says which features work on this host.
func FeatureList(features []sock.Feature) string {
	var b strings.Builder
	b.WriteString("<h2>On this host</h2><ul>")
	for i := range features {
		b.WriteString("<li>" + template.HTMLEscapeString(featureLine(&features[i])) + "</li>")
	}
	b.WriteString("</ul>")
	return b.String()
}
