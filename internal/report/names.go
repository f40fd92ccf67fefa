package report

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"sockstate_exporter/internal/words"
)

// Name is words.Name.
func Name(name string) string { return words.Name(name) }

// OneLine is words.OneLine.
func OneLine(text string) string { return words.OneLine(text) }

// Plural is words.Plural.
func Plural(n uint64, what string) string { return words.Plural(n, what) }

// FirstOf is words.FirstOf.
func FirstOf(items []string) []string { return words.FirstOf(items) }

// printable is a name, in quotes only where a terminal could not show it.
func printable(name string) string {
	if !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(name)
	}
	return name
}
