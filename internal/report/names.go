package report

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
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

// printable is a name, in quotes only where a terminal could not show it.
func printable(name string) string {
	if !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(name)
	}
	return name
}

// Plural counts things.
func Plural(n uint64, what string) string { return counted(n, what, what+"s") }

func counted(n uint64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.FormatUint(n, 10) + " " + many
}

// maxListed is how many items a sentence lists.
const maxListed = 3

// FirstOf are the first items, and how many more there are.
func FirstOf(items []string) []string {
	if len(items) <= maxListed {
		return items
	}
	return append(items[:maxListed:maxListed], fmt.Sprintf("%d more", len(items)-maxListed))
}

// few lists some different items.
func few(items []string) string {
	slices.Sort(items)
	items = slices.Compact(items)
	if len(items) > maxListed {
		return strings.Join(items[:maxListed], ", ") + ", ..."
	}
	return strings.Join(items, ", ")
}
