package check

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cilium/ebpf/btf"

	"sockstate_exporter/internal/bpf/udphash"
	"sockstate_exporter/internal/report"
	"sockstate_exporter/internal/udp"
	"sockstate_exporter/netlinkdiag"
)

// openUDP opens what reads the flags of UDP sockets.
func (src *sources) openUDP(opts *options, types *btf.Cache) {
	if !slices.ContainsFunc(opts.targets, func(t report.Target) bool { return t.UDP }) {
		return
	}
	if reader, err := udphash.New(types); err != nil {
		src.udpErr = err
	} else {
		src.udp, src.host.UDP = reader, reader
	}
}

// lookAtUDP adds the UDP ports that are asked about to the report: those with sockets, and those that were
// asked for alone.
func (src *sources) lookAtUDP(ctx context.Context, opts *options, query *report.Query, judged *report.Report, owners bool) error {
	asked := make(map[uint16]bool) // with sockets
	ns := src.host.Own()
	defer ns.Close()
	if err := ns.UDPSockets(ctx, &udpPorts{targets: opts.targets, found: asked}); err != nil {
		if onlyUDP(opts.targets) {
			return fmt.Errorf("look at the sockets: %w", err)
		}
		judged.Unseen = append(judged.Unseen, "UDP sockets: "+err.Error())
		return nil
	}
	for _, t := range opts.targets {
		if t.NoTCP && t.First == t.Last {
			asked[t.First] = true
		}
	}
	var finder udp.Finder
	if owners && src.owners != nil {
		finder = src.owners
	}
	found, err := udp.Look(ctx, ns, slices.Sorted(maps.Keys(asked)), finder)
	if err != nil {
		return fmt.Errorf("look at the sockets: %w", err)
	}
	for i := range found {
		p := report.NewUDP(&found[i], query)
		if len(p.Sockets) > 0 || p.Outcome != report.Free || alone(opts.targets, p.Port, true) {
			judged.UDP = append(judged.UDP, p)
			judged.Outcome = report.Worse(judged.Outcome, p.Outcome)
		}
	}
	if src.udpErr != nil && slices.ContainsFunc(judged.UDP, func(p report.UDPPort) bool { return p.InUse }) {
		unseen := lack{what: "SO_REUSEADDR of UDP sockets", detail: src.udpErr.Error()}
		src.missed = append(src.missed, unseen)
		judged.Unseen = append(judged.Unseen, unseen.detail)
	}
	return nil
}

func onlyUDP(targets []report.Target) bool {
	return !slices.ContainsFunc(targets, func(t report.Target) bool { return !t.NoTCP })
}

// udpPorts finds the ports with UDP sockets. It is a probe.Visitor.
type udpPorts struct {
	targets []report.Target
	found   map[uint16]bool
}

// Reset implements probe.Visitor.
func (u *udpPorts) Reset() { clear(u.found) }

// Add implements probe.Visitor.
func (u *udpPorts) Add(s *netlinkdiag.Socket) {
	port := s.Local.Port()
	if !u.found[port] && slices.ContainsFunc(u.targets, func(t report.Target) bool { return t.UDP && t.Contains(port) }) {
		u.found[port] = true
	}
}

// alone says that a port was asked for by itself, and not only as part of a range. udp: without TCP.
func alone(targets []report.Target, port uint16, udp bool) bool {
	return slices.ContainsFunc(targets, func(t report.Target) bool {
		return t.First == port && t.Last == port && (udp && t.NoTCP || !udp && !t.NoTCP)
	})
}

// udpOf is what the report has of a UDP port; nil: it is free, or was not asked for.
func udpOf(r *report.Report, port uint16) *report.UDPPort {
	for i := range r.UDP {
		if r.UDP[i].Port == port {
			return &r.UDP[i]
		}
	}
	return nil
}

// udpHeadline is the first line about a UDP port.
func udpHeadline(r *report.Report, targets []report.Target, p *report.UDPPort) report.Headline {
	h := p.Headline(r.ReuseAddr)
	h.Subject = subject(targets, p.Port, "/udp")
	return h
}

// udp writes what there is to say about a UDP port.
func (t *text) udp(p *report.UDPPort) {
	head := udpHeadline(t.report, t.targets, p)
	t.line("%s", head.Text(t.paint))
	if isFree := p.Outcome == report.Free && len(p.Sockets) == 0; isFree || !alone(t.targets, p.Port, true) && !alone(t.targets, p.Port, false) {
		return
	}
	for i := range p.Sockets {
		s := &p.Sockets[i]
		t.line("  bound to %s %s", s.Place(), s.About())
		if by := s.By(); by != "" {
			t.line("    by %s", by)
		}
		t.line("    if it were restarted: %s", s.Restart.Text(t.paint))
	}
	if p.Connected > 0 {
		t.line("  connected sockets: %d", p.Connected)
	}
	t.binds(p.Binds)
	if len(p.Advice) > 0 {
		t.line("  what to do:")
	}
	for _, advice := range p.Advice {
		t.line("    - %s", advice)
	}
}

// udpReason is what keeps a waiting command waiting.
func udpReason(judged *report.Report) string {
	var out strings.Builder
	for i := range judged.UDP {
		if p := &judged.UDP[i]; p.Outcome == report.Blocked {
			fmt.Fprintf(&out, "%d/udp %v", p.Port, p.InUse)
		}
	}
	return out.String()
}
