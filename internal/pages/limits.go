package pages

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/failures"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/stack"
)

// A NamespaceRow is how near a network namespace is to its limits. What is nil is not known.
type NamespaceRow struct {
	Netns           string  `json:"netns"`
	TimeWait        *uint64 `json:"time_wait_sockets"`
	TimeWaitLimit   *uint64 `json:"time_wait_limit"`
	Ephemeral       *uint64 `json:"ephemeral_ports_used"` // for the busiest destination
	EphemeralLimit  *uint64 `json:"ephemeral_ports_limit"`
	ConnectFailures *uint64 `json:"connect_failures"` // that found no port, since the start
}

// connectFailures are how often connect() found no local port, by the inode number of the
// network namespace; nil: not counted.
func connectFailures(b *snapshot.Part[failures.Binds]) map[uint32]uint64 {
	if b.Err != nil || !b.Data.Connects {
		return nil
	}
	out := make(map[uint32]uint64)
	for _, c := range b.Data.Counts {
		if c.Op == bindtrace.OpConnect && !c.OtherPort {
			out[c.Netns] += c.N
		}
	}
	return out
}

func newNamespaceRow(ns *snapshot.Namespace, failures map[uint32]uint64) NamespaceRow {
	stats := &ns.Stack.Data // may be incomplete
	r := NamespaceRow{
		Netns: ns.Label(), TimeWait: known(stats.TimeWait), TimeWaitLimit: known(stats.TimeWaitLimit),
		EphemeralLimit: known(stats.EphemeralPorts),
	}
	if e := &ns.Ephemeral; e.Err == nil {
		r.Ephemeral = new(max(busiest(e.Data.IPv4), busiest(e.Data.IPv6)))
	}
	if failures != nil {
		r.ConnectFailures = new(failures[ns.Inode])
	}
	return r
}

func known(v stack.Value) *uint64 {
	if !v.OK {
		return nil
	}
	return &v.V
}

func busiest(used []uint64) uint64 {
	if len(used) == 0 {
		return 0
	}
	return used[0]
}

// fullestFirst sorts all but the exporter's own namespace, which stays first.
func fullestFirst(rows []NamespaceRow) {
	if len(rows) > 0 && rows[0].Netns == "" {
		rows = rows[1:]
	}
	slices.SortStableFunc(rows, func(a, b NamespaceRow) int { return cmp.Compare(b.share(), a.share()) })
}

// share is how much of the nearest limit is used.
func (r *NamespaceRow) share() float64 {
	return max(fraction(r.TimeWait, r.TimeWaitLimit), fraction(r.Ephemeral, r.EphemeralLimit))
}

func fraction(used, limit *uint64) float64 {
	if used == nil || limit == nil || *limit == 0 {
		return 0
	}
	return float64(*used) / float64(*limit)
}

// Limits are the namespaces about which something is known.
func (p *PortsPage) Limits() []NamespaceRow {
	return slices.DeleteFunc(slices.Clone(p.Namespaces), func(r NamespaceRow) bool {
		return r == NamespaceRow{Netns: r.Netns}
	})
}

// TimeWaitTag shows the TIME_WAIT sockets and their limit.
func (r *NamespaceRow) TimeWaitTag() Tag { return ofLimit(r.TimeWait, r.TimeWaitLimit) }

// EphemeralTag shows the ports in use for the busiest destination and their limit.
func (r *NamespaceRow) EphemeralTag() Tag { return ofLimit(r.Ephemeral, r.EphemeralLimit) }

// ofLimit warns at the same share as the alert on the TIME_WAIT table.
func ofLimit(used, limit *uint64) Tag {
	t := Tag{Level: none}
	switch s := fraction(used, limit); {
	case s >= 1:
		t.Level = bad
	case s > 0.9:
		t.Level = warn
	}
	switch {
	case used == nil && limit == nil:
		t.Text = "not known"
	case used == nil:
		t.Text = fmt.Sprintf("not known, of %d", *limit)
	case limit == nil:
		t.Text = strconv.FormatUint(*used, 10)
	default:
		t.Text = fmt.Sprintf("%d of %d", *used, *limit)
	}
	return t
}
