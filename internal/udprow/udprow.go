// Package udprow has what the page /ports shows of a UDP port. It is pure.
package udprow

import (
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/report"
	"sockstate_exporter/internal/words"
)

// A Report is what is on a watched UDP port.
type Report struct {
	IPv4 Sockets `json:"ipv4"`
	IPv6 Sockets `json:"ipv6"`

	// Servers are the sockets that anybody can send to, by address; nil: not known.
	Servers        []report.UDPSocket `json:"servers"`
	ServersLeftOut int                `json:"servers_left_out"`
	Connected      uint64             `json:"connected"`
	Shared         *report.Diagnosis  `json:"shared"` // nil: different servers do not share the port
}

// Sockets are the sockets of one family.
type Sockets struct {
	Sockets uint64  `json:"sockets"`
	Queue   uint64  `json:"receive_queue_bytes"`
	Drops   *uint64 `json:"drops"` // nil: not known
}

// maxServers is how many addresses have a line.
const maxServers = 16

// New returns the Report of what was counted. judged is the verdict; nil: not known.
func New(counted *ports.UDPPort, judged *report.UDPPort) *Report {
	r := &Report{IPv4: newSockets(&counted.IPv4), IPv6: newSockets(&counted.IPv6)}
	if judged != nil {
		n := min(len(judged.Sockets), maxServers)
		r.Servers, r.ServersLeftOut = judged.Sockets[:n], len(judged.Sockets)-n
		r.Connected, r.Shared = judged.Connected, judged.Shared
	}
	return r
}

func newSockets(s *ports.UDPSockets) Sockets {
	out := Sockets{Sockets: s.Sockets, Queue: s.Queue}
	if s.DropsKnown {
		out.Drops = &s.Drops
	}
	return out
}

// A Line is a family's line of the table.
type Line struct {
	Sockets
	Servers []report.UDPSocket
	family  string
}

// Lines are a line for each family that has a socket.
func (r *Report) Lines() (out []Line) {
	if r == nil {
		return nil
	}
	for _, half := range []Line{{Sockets: r.IPv4, family: "IPv4"}, {Sockets: r.IPv6, family: "IPv6"}} {
		if half.Sockets.Sockets == 0 {
			continue
		}
		for i := range r.Servers {
			if r.Servers[i].Address.Is4() == (half.family == "IPv4") {
				half.Servers = append(half.Servers, r.Servers[i])
			}
		}
		out = append(out, half)
	}
	return out
}

// Text says how many sockets there are.
func (l *Line) Text() string { return words.Plural(l.Sockets.Sockets, l.family+" socket") }

// QueueText is how much waits to be read.
func (l *Line) QueueText() string { return words.Plural(l.Queue, "byte") }
