package words

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Printable is a name, in quotes only where a terminal could not show it.
func Printable(name string) string {
	if !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(name)
	}
	return name
}
