package report

import (
	"cmp"
	"slices"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/diagnosis"
	"sockstate_exporter/internal/sock"
)

// An Outcome is what bind() would answer, in a word.
type Outcome string

// The outcomes.
const (
	Free    Outcome = "free"    // it would succeed
	Unknown Outcome = "unknown" // it depends on what is not known
	Blocked Outcome = "blocked" // EADDRINUSE
)

// Compare is negative where o is better than other: free, unknown, blocked.
func (o Outcome) Compare(other Outcome) int {
	rank := []Outcome{Free, Unknown, Blocked}
	return slices.Index(rank, o) - slices.Index(rank, other)
}

// Worse is the worse of two outcomes.
func Worse(a, b Outcome) Outcome {
	if a.Compare(b) > 0 {
		return a
	}
	return b
}

// Until says what ends a block.
type Until string

// The values of Until.
const (
	UntilNow     Until = "now"     // nothing blocks
	UntilTime    Until = "time"    // a timer of the kernel
	UntilClosed  Until = "closed"  // someone has to close a socket
	UntilUnknown Until = "unknown" // it depends on what is not known
)

// An Answer says what one bind() would return.
type Answer struct {
	Outcome Outcome `json:"outcome"`
	Until   Until   `json:"until"`

	// BlockedSeconds is for how long the bind would fail. It is set for UntilNow and UntilTime.
	BlockedSeconds *float64 `json:"blocked_seconds"`

	// AtMostSeconds bounds that time, whatever is not known; nil: nothing bounds it.
	AtMostSeconds *float64 `json:"at_most_seconds"`

	// Blockers block the bind, or may block it where Certain is false.
	Blockers []Blocker `json:"blockers"`

	Diagnosis *Diagnosis `json:"diagnosis"` // nil: it would succeed

	brief, why string // of the diagnosis
}

// A Blocker is a number of sockets that bind() conflicts with.
type Blocker struct {
	State     string        `json:"state"` // as in the metrics
	Sockets   uint64        `json:"sockets"`
	ReuseAddr bindrule.Flag `json:"reuseaddr"` // that the sockets have
	Certain   bool          `json:"certain"`

	// ExpiresSeconds is the time until the timer of the last one ends it; nil: no timer runs.
	ExpiresSeconds *float64 `json:"expires_seconds"`
}

// newAnswer takes the diagnosis of a bind that would not succeed.
func newAnswer(port *bindrule.Port, v *bindrule.Verdict, of func() diagnosis.Diagnosis) Answer {
	a := Answer{
		Outcome: Outcome(v.Outcome.String()), Until: UntilUnknown,
		Blockers: append(blockers(port, v.Blockers, true), blockers(port, v.Doubtful, false)...),
	}
	switch {
	case v.Outcome == bindrule.Free:
		a.Until, a.BlockedSeconds = UntilNow, new(0.0)
	case v.Outcome == bindrule.Blocked && v.Forever:
		a.Until = UntilClosed
	case v.Outcome == bindrule.Blocked && v.UntilKnown:
		a.Until, a.BlockedSeconds = UntilTime, new(Seconds(v.Until))
	}
	if a.Outcome != Free {
		d := of()
		a.Diagnosis, a.brief, a.why = NewDiagnosis(&d), d.Brief, d.Why
	}
	a.AtMostSeconds = a.BlockedSeconds
	if a.Until == UntilUnknown && !port.Incomplete {
		a.AtMostSeconds = atMost(a.Blockers)
	}
	return a
}

// atMost is when the last of them is gone; nil: one stays.
func atMost(blockers []Blocker) *float64 {
	var last float64
	for _, b := range blockers {
		if b.ExpiresSeconds == nil {
			return nil
		}
		last = max(last, *b.ExpiresSeconds)
	}
	return &last
}

// blockers counts the sockets that the report does not tell apart.
func blockers(port *bindrule.Port, indices []int, certain bool) []Blocker {
	out := []Blocker{}
	for _, i := range indices {
		s := &port.Sockets[i]
		b := Blocker{State: s.State.String(), ReuseAddr: s.ReuseAddr, Certain: certain}
		if s.Kind == sock.KindTimeWait {
			b.ExpiresSeconds = new(0.0)
		}
		same := slices.IndexFunc(out, func(o Blocker) bool {
			return o.State == b.State && o.ReuseAddr == b.ReuseAddr && (o.ExpiresSeconds == nil) == (b.ExpiresSeconds == nil)
		})
		if same < 0 {
			same = len(out)
			out = append(out, b)
		}
		out[same].Sockets += s.Count
		if left := out[same].ExpiresSeconds; left != nil {
			*left = max(*left, Seconds(s.Expires))
		}
	}
	slices.SortStableFunc(out, func(a, b Blocker) int {
		return cmp.Or(cmp.Compare(a.State, b.State), cmp.Compare(a.ReuseAddr, b.ReuseAddr))
	})
	return out
}

// Seconds rounds up to milliseconds, the unit in which the kernel reports timers.
func Seconds(d time.Duration) float64 {
	return float64((d+time.Millisecond-1)/time.Millisecond) / 1000
}
