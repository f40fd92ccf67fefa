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
func Process(name string, pid int, at Place, others int) string {
	who := "unnamed process"
	if name != "" {
		who = Name(name)
	}
	if in := at.in(); in != "" {
		who += " in " + in
	}
	var about []string
	if pid != 0 {
		about = append(about, fmt.Sprintf("pid %d", pid))
	}
	if about = append(about, at.rest()...); len(about) > 0 {
		who += " (" + strings.Join(about, ", ") + ")"
	}
	if others > 0 {
		who += fmt.Sprintf(" and %d more", others)
	}
	return who
}

// A Place is what a process belongs to: a systemd unit, and a container, which may be in a pod. Each may be
// empty.
type Place struct {
	Unit, Pod, Container string
}

// in is the pod, or else the container.
func (p Place) in() string {
	switch {
	case p.Pod != "":
		return "pod " + Name(p.Pod)
	case p.Container != "":
		return "container " + Name(p.Container)
	}
	return ""
}

func (p Place) rest() (rest []string) {
	if p.Unit != "" {
		rest = append(rest, Name(p.Unit))
	}
	if p.Pod != "" && p.Container != "" {
		rest = append(rest, "container "+Name(p.Container))
	}
	return rest
}

// String names all parts.
func (p Place) String() string {
	all := p.rest()
	if in := p.in(); in != "" {
		all = append([]string{in}, all...)
	}
	return strings.Join(all, ", ")
}

// Port is a port in words.
func Port(number uint16) string { return "port " + strconv.Itoa(int(number)) }

// NetNS names the network namespace of a call. Empty: it is the exporter's own; nil: it is not watched.
func NetNS(name *string, inode uint32) string {
	switch {
	case name == nil:
		return fmt.Sprintf("network namespace %d, not watched", inode)
	case *name == "":
		return ""
	default:
		return "network namespace " + Name(*name)
	}
}
