package status

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"sockstate_exporter/internal/bindrule"
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

func worse(a, b Outcome) Outcome {
	rank := []Outcome{Free, Unknown, Blocked}
	if slices.Index(rank, a) > slices.Index(rank, b) {
		return a
	}
	return b
}

// Until says what ends a block.
type Until string

// The ends.
const (
	UntilNow     Until = "now"     // there is none
	UntilTime    Until = "time"    // a timer of the kernel's
	UntilClosed  Until = "closed"  // someone has to close a socket
	UntilUnknown Until = "unknown" // it depends on what is not known
)

// An Answer is what one bind() would be answered.
type Answer struct {
	Outcome Outcome `json:"outcome"`
	Until   Until   `json:"until"`

	// BlockedSeconds is for how long it would keep failing; nil but for UntilNow and UntilTime.
	BlockedSeconds *float64 `json:"blocked_seconds"`

	// AtMostSeconds is the same at most, whatever is not known; nil where nothing bounds it.
	AtMostSeconds *float64 `json:"at_most_seconds"`

	// Blockers are in the way, or, where Certain is false, may be.
	Blockers []Blocker `json:"blockers"`
}

// A Blocker is a number of sockets that bind() does not go with.
type Blocker struct {
	State     string `json:"state"` // as in the metrics
	Sockets   uint64 `json:"sockets"`
	ReuseAddr Flag   `json:"reuseaddr"` // that they were opened with
	Certain   bool   `json:"certain"`

	// ExpiresSeconds is the time until the last of them is gone by its timer; nil where
	// none runs.
	ExpiresSeconds *float64 `json:"expires_seconds"`
}

func unknownAnswer() Answer {
	return Answer{Outcome: Unknown, Until: UntilUnknown, Blockers: []Blocker{}}
}

func newAnswer(port *bindrule.Port, v *bindrule.Verdict) Answer {
	a := Answer{Outcome: Outcome(v.Outcome.String()), Until: UntilUnknown, Blockers: blockers(port, v)}
	switch {
	case v.Outcome == bindrule.Free:
		a.Until, a.BlockedSeconds = UntilNow, seconds(0)
	case v.Outcome == bindrule.Blocked && v.Forever:
		a.Until = UntilClosed
	case v.Outcome == bindrule.Blocked && v.UntilKnown:
		a.Until, a.BlockedSeconds = UntilTime, seconds(v.Until)
	}
	a.AtMostSeconds = a.BlockedSeconds
	if a.Until == UntilUnknown && !port.Incomplete {
		a.AtMostSeconds = atMost(a.Blockers)
	}
	return a
}

// atMost is when the last of them is gone, nil if there is one that stays.
func atMost(blockers []Blocker) *float64 {
	last := seconds(0)
	for _, b := range blockers {
		if b.ExpiresSeconds == nil {
			return nil
		}
		*last = max(*last, *b.ExpiresSeconds)
	}
	return last
}

// blockers counts them by what is said about them: those that are certain first, by state.
func blockers(port *bindrule.Port, v *bindrule.Verdict) []Blocker {
	out := []Blocker{}
	add := func(indices []int, certain bool) {
		for _, i := range indices {
			out = addBlocker(out, &port.Sockets[i], certain)
		}
	}
	add(v.Blockers, true)
	add(v.Doubtful, false)
	slices.SortFunc(out, func(a, b Blocker) int {
		return cmp.Or(compareBool(b.Certain, a.Certain), cmp.Compare(a.State, b.State), cmp.Compare(a.ReuseAddr, b.ReuseAddr))
	})
	return out
}

func addBlocker(out []Blocker, s *bindrule.Socket, certain bool) []Blocker {
	b := Blocker{State: stateName(s.State), Sockets: s.Count, ReuseAddr: Flag(s.ReuseAddr), Certain: certain}
	if s.Kind == sock.KindTimeWait {
		b.ExpiresSeconds = seconds(s.Expires)
	}
	for i := range out {
		same := out[i].State == b.State && out[i].ReuseAddr == b.ReuseAddr && out[i].Certain == b.Certain &&
			(out[i].ExpiresSeconds == nil) == (b.ExpiresSeconds == nil)
		if !same {
			continue
		}
		out[i].Sockets += b.Sockets
		if b.ExpiresSeconds != nil {
			*out[i].ExpiresSeconds = max(*out[i].ExpiresSeconds, *b.ExpiresSeconds)
		}
		return out
	}
	return append(out, b)
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	default:
		return -1
	}
}

// seconds is in the milliseconds that the kernel counts in, and never too short.
func seconds(d time.Duration) *float64 {
	s := float64((d+time.Millisecond-1)/time.Millisecond) / 1000
	return &s
}

// A Flag is a socket option: true, false, or null where it is not known.
type Flag bindrule.Flag

// MarshalJSON implements json.Marshaler.
func (f Flag) MarshalJSON() ([]byte, error) {
	switch bindrule.Flag(f) {
	case bindrule.Yes:
		return []byte("true"), nil
	case bindrule.No:
		return []byte("false"), nil
	default:
		return []byte("null"), nil
	}
}

// UnmarshalJSON implements json.Unmarshaler.
func (f *Flag) UnmarshalJSON(b []byte) error {
	var on *bool
	if err := json.Unmarshal(b, &on); err != nil {
		return fmt.Errorf("read flag: %w", err)
	}
	*f = Flag(bindrule.FlagUnknown)
	if on != nil {
		*f = Flag(bindrule.FlagOf(*on))
	}
	return nil
}
