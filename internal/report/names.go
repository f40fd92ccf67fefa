package report

import (
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

// MaxListed is how many items a sentence lists.
const MaxListed = 3

// few lists some different items.
func few(items []string) string {
	slices.Sort(items)
	items = slices.Compact(items)
	if len(items) > MaxListed {
		return strings.Join(items[:MaxListed], ", ") + ", ..."
	}
	return strings.Join(items, ", ")
}
