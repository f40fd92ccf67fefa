// Package words has the small parts of sentences that the project's texts share: names that others
// chose, counts, lists and times.
//
// It imports nothing of the project.
package words

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Name shows what somebody else named: a plain word as it is, all else in quotes and ASCII.
func Name(name string) string {
	special := func(r rune) bool {
		return r >= 0x80 || !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("-_.:/+@", r)
	}
	if strings.ContainsFunc(name, special) {
		return strconv.QuoteToASCII(name)
	}
	return name
}

// OneLine is text without what would break a line.
func OneLine(text string) string {
	quoted := strconv.Quote(text)
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}

// Plural counts things.
func Plural(n uint64, what string) string { return Counted(n, what, what+"s") }

// Counted counts things whose plural is irregular.
func Counted(n uint64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.FormatUint(n, 10) + " " + many
}

// maxListed is how many items a sentence lists.
const maxListed = 3

// FirstOf returns the first items, and how many more there are.
func FirstOf(items []string) []string {
	if len(items) <= maxListed {
		return items
	}
	return append(items[:maxListed:maxListed], fmt.Sprintf("%d more", len(items)-maxListed))
}

// Few lists some different items, sorted.
func Few(items []string) string {
	items = slices.Compact(slices.Sorted(slices.Values(items)))
	if len(items) > maxListed {
		return strings.Join(items[:maxListed], ", ") + ", ..."
	}
	return strings.Join(items, ", ")
}

// And lists all items: "a, b and c".
func And(items []string) string {
	if len(items) < 2 {
		return strings.Join(items, "")
	}
	last := len(items) - 1
	return strings.Join(items[:last], ", ") + " and " + items[last]
}

// Wait is a time in whole seconds, rounded up.
func Wait(d time.Duration) string { return Seconds(d.Seconds()) }

// Seconds is Wait of a number of seconds.
func Seconds(n float64) string { return fmt.Sprintf("%d s", int64(math.Ceil(n))) }

// Process names a process, what it belongs to, and how many others share what it has.
func Process(name string, pid int, place string, others int) string {
	who := "unnamed process"
	if name != "" {
		who = Name(name)
	}
	var about []string
	if pid != 0 {
		about = append(about, fmt.Sprintf("pid %d", pid))
	}
	if place != "" {
		about = append(about, place)
	}
	if len(about) > 0 {
		who += " (" + strings.Join(about, ", ") + ")"
	}
	if others > 0 {
		who += fmt.Sprintf(" and %d more", others)
	}
	return who
}

// Place names a systemd unit and a container. Each may be empty.
func Place(unit, container string) string {
	var in []string
	if unit != "" {
		in = append(in, Name(unit))
	}
	if container != "" {
		in = append(in, "container "+Name(container))
	}
	return strings.Join(in, ", ")
}

// Port is a port in words.
func Port(number uint16) string { return "port " + strconv.Itoa(int(number)) }
