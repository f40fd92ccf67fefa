package stack

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A portRange is the ports from first to last, both included.
type portRange struct {
	first, last int
}

// parsePortRanges reads a list such as "8080,9000-9100", which may be empty.
func parsePortRanges(text string) ([]portRange, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return nil, nil
	}
	var ranges []portRange
	for item := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(item, "-")
		if !isRange {
			last = first
		}
		a, errA := strconv.ParseUint(first, 10, 16)
		b, errB := strconv.ParseUint(last, 10, 16)
		if errA != nil || errB != nil || a > b {
			return nil, fmt.Errorf("got %q, want a port or a range of ports", item)
		}
		ranges = append(ranges, portRange{int(a), int(b)})
	}
	return ranges, nil
}

// countUnreserved returns how many ports of all are in no range of reserved. Those ranges may
// overlap, and may lie outside all.
func countUnreserved(all portRange, reserved []portRange) int {
	slices.SortFunc(reserved, func(a, b portRange) int { return cmp.Compare(a.first, b.first) })

	n := all.last - all.first + 1
	next := all.first // lowest port that is not checked against the ranges yet
	for _, r := range reserved {
		first, last := max(r.first, next), min(r.last, all.last)
		if first <= last {
			n -= last - first + 1
			next = last + 1
		}
	}
	return n
}
