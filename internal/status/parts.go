package status

import "sockstate_exporter/internal/snapshot"

// A PartReport is a part of the snapshot that is not there, or not whole.
type PartReport struct {
	Netns string `json:"netns"`
	Part  string `json:"part"`  // as in the collector label of the metrics
	State string `json:"state"` // failed or off
	Error string `json:"error"` // empty where it is off
}

const (
	partFailed = "failed"
	partOff    = "off"
)

// What a page counts at most.
const (
	maxParts     = 20
	maxRows      = 500
	maxListeners = 16 // of a port

	maxNamespaces = 16
)

// parts are those of a namespace that are missing.
func parts(ns *snapshot.Namespace) []PartReport {
	var out []PartReport
	for _, p := range []struct {
		name string
		err  error
		off  bool
	}{
		{"watch", ns.Watch.Err, ns.Watch.Off()},
		{"listener", ns.Listeners.Err, ns.Listeners.Off()},
		{"tcp", ns.TCP.Err, ns.TCP.Off()},
		{"reuse", ns.Reuse.Err, ns.Reuse.Off()},
		{"restart", ns.Verdicts.Err, ns.Verdicts.Off()},
		{"udp", ns.UDP.Err, ns.UDP.Off()},
		{"ephemeral", ns.Ephemeral.Err, ns.Ephemeral.Off()},
		{"stack", ns.Stack.Err, ns.Stack.Off()},
	} {
		out = appendPart(out, ns.Label(), p.name, p.err, p.off)
	}
	return out
}

func appendPart(out []PartReport, netns, part string, err error, off bool) []PartReport {
	switch {
	case err == nil:
		return out
	case off:
		return append(out, PartReport{Netns: netns, Part: part, State: partOff})
	default:
		return append(out, PartReport{Netns: netns, Part: part, State: partFailed, Error: plain(err.Error())})
	}
}

// bounded cuts a list, and says how much is gone.
func bounded[T any](list []T, most int) (kept []T, leftOut int) {
	if len(list) <= most {
		return list, 0
	}
	return list[:most], len(list) - most
}
