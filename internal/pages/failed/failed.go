// Package failed finds the binds that failed on each port of a snapshot. It is pure.
package failed

import (
	"cmp"
	"fmt"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/failures"
	"sockstate_exporter/internal/report"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/words"
)

// Binds are the calls of bind() and listen() that failed on a port, as far as the exporter remembers them.
type Binds struct {
	Count     uint64     `json:"count"`
	Failing   bool       `json:"failing"` // no bind has worked since
	Last      time.Time  `json:"last"`
	Ago       float64    `json:"ago_seconds"` // of the latest, as are the following
	Call      string     `json:"call"`
	Errno     string     `json:"errno"`
	Diagnosis codes.Code `json:"diagnosis"` // empty: not known

	ReuseAddr bindrule.Flag `json:"-"`
	Advice    string        `json:"-"` // the diagnosis in a line; empty: not known
}

type port struct {
	netns    uint32 // inode number
	number   uint16
	protocol sock.Protocol
}

// Ports has the ports with failed binds.
type Ports map[port]*Binds

// New finds them.
func New(b *failures.Binds, now time.Time) Ports {
	out := make(Ports)
	for i := range b.Recent { // the latest first
		f := &b.Recent[i]
		if f.Op == bindtrace.OpConnect || !f.PortKnown || f.Port == 0 {
			continue
		}
		key := portOf(f.Netns, f.Port, f.Protocol)
		on := out[key]
		if on == nil {
			d := f.Diagnosis()
			on = &Binds{
				Last: f.Last.UTC().Truncate(time.Millisecond), Ago: report.Seconds(max(now.Sub(f.Last), 0)), Call: f.Op.String(),
				Errno: cmp.Or(failures.ErrnoName(f.Errno), fmt.Sprintf("errno %d", int(f.Errno))), Diagnosis: d.Code,
			}
			on.ReuseAddr = f.Request.ReuseAddr
			if told := report.NewDiagnosis(&d); told != nil {
				on.Advice = told.Line()
			}
			out[key] = on
		}
		on.Count += f.Count
	}
	for i := range b.Failing {
		f := &b.Failing[i]
		if on := out[portOf(f.Netns, f.Port, sock.TCP)]; on != nil && f.Failing {
			on.Failing = true
		}
	}
	return out
}

func portOf(netns uint32, number uint16, protocol sock.Protocol) port {
	if protocol == sock.MPTCP {
		protocol = sock.TCP
	}
	return port{netns, number, protocol}
}

// On returns those of a port; nil: none.
func (p Ports) On(netns uint32, number uint16, protocol sock.Protocol) *Binds {
	return p[portOf(netns, number, protocol)]
}

// Text counts them.
func (b *Binds) Text() string { return words.Counted(b.Count, "bind failed", "binds failed") }

// Why is why the latest failed, in short.
func (b *Binds) Why() string {
	why := b.Errno
	if b.Call != bindtrace.OpBind.String() {
		why += " of " + b.Call + "()"
	}
	if b.Diagnosis != "" {
		why += ", " + string(b.Diagnosis)
	}
	return why
}

// Explains says that the latest failure says more than the diagnosis of what is on the port now; nil: a bind would
// work. Where something listens, it says who cannot have the port, and why.
func (b *Binds) Explains(now *report.Diagnosis, listens bool) bool {
	if listens {
		return b.Advice != "" && (now == nil || now.Code != b.Diagnosis)
	}
	return b.Advice != "" && !b.MayBeOver()
}

// MayBeOver says that the latest call failed because of sockets of others: it works as soon as they are gone.
func (b *Binds) MayBeOver() bool {
	return b.Errno == "EADDRINUSE" && b.Diagnosis != codes.OwnListener && b.Diagnosis != codes.SecondListen
}
