package diagnosis

import (
	"time"

	"sockstate_exporter/internal/sock"
)

// An End says what ends the trouble.
type End struct {
	Kind EndKind
	// Left is the time until then, for EndTime and EndAtLeast. It was right when the sockets were
	// seen.
	Left time.Duration
}

// An EndKind is a way in which a failure ends.
type EndKind string

// The kinds.
const (
	EndUnknown EndKind = "unknown"
	EndTime    EndKind = "time"     // a timer of the kernel ends it
	EndAtLeast EndKind = "at_least" // a timer that the peer can start anew
	EndKernel  EndKind = "kernel"   // the kernel gives up after some retransmissions
	EndClosed  EndKind = "closed"   // somebody has to close a socket
	EndChanged EndKind = "changed"  // somebody has to change a setting, or the program
)

// UntilClosed is the end of what somebody has to close.
func UntilClosed() End { return End{Kind: EndClosed} }

// UntilChanged is the end of what somebody has to change.
func UntilChanged() End { return End{Kind: EndChanged} }

// endOf is when the last of the sockets is gone.
func endOf(blockers []Blocker) End {
	end := End{Kind: EndTime}
	for i := range blockers {
		b := &blockers[i]
		of := End{Kind: EndClosed}
		switch {
		case b.Kind == sock.KindTimeWait && b.State == sock.StateTimeWait:
			of = End{EndTime, b.Expires}
		case b.Kind == sock.KindTimeWait:
			of = End{EndAtLeast, b.Expires}
		case isOrphan(b):
			of = End{Kind: EndKernel}
		}
		end = later(end, of)
	}
	return end
}

// later joins two ends: the one that lasts longer, or that says less.
func later(a, b End) End {
	left := max(a.Left, b.Left)
	if rank(b.Kind) > rank(a.Kind) {
		a = b
	}
	if a.Kind == EndTime || a.Kind == EndAtLeast {
		a.Left = left
	}
	return a
}

func rank(k EndKind) int {
	switch k {
	case EndTime:
		return 0
	case EndAtLeast:
		return 1
	case EndKernel:
		return 2
	default:
		return 3
	}
}
