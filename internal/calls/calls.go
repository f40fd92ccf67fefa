// Package calls adds up failed calls by what the labels of a counter say of them. It is pure.
package calls

import (
	"cmp"
	"maps"
	"slices"

	"sockstate_exporter/internal/diagnosis/codes"
)

// A Call has what the labels of a counter of failed calls say. What a counter has no label for is zero.
type Call struct {
	Netns     string
	Port      uint16
	OtherPort bool
	Protocol  string
	Family    string
	Errno     string
	Diagnosis codes.Code
}

func (c *Call) compare(o *Call) int {
	return cmp.Or(
		cmp.Compare(c.Netns, o.Netns),
		cmp.Compare(c.Port, o.Port),
		compareBool(c.OtherPort, o.OtherPort),
		cmp.Compare(c.Protocol, o.Protocol),
		cmp.Compare(c.Family, o.Family),
		cmp.Compare(c.Errno, o.Errno),
		cmp.Compare(c.Diagnosis, o.Diagnosis),
	)
}

// compareBool puts false first.
func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// A Tally adds up the counts with the same labels.
type Tally map[Call]uint64

// Add adds n calls.
func (t Tally) Add(c Call, n uint64) {
	if n > 0 {
		t[c] += n
	}
}

// Take removes a count, which may be 0.
func (t Tally) Take(c Call) uint64 {
	n, counted := t[c]
	if counted {
		delete(t, c)
	}
	return n
}

// Sorted are the calls in an order that does not change from one scrape to the next.
func (t Tally) Sorted() []Call {
	return slices.SortedFunc(maps.Keys(t), func(a, b Call) int { return a.compare(&b) })
}
