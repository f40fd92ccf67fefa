package sock

import (
	"strings"
	"unicode"
)

// MaxPrintable is the maximum length of what Printable returns, in runes.
const MaxPrintable = 64

// Printable turns a name of any bytes into valid, printable UTF-8 of at most MaxPrintable runes. Every
// invalid byte and every rune that cannot be printed becomes U+FFFD. The kernel hardly restricts
// the names of processes, interfaces and namespaces.
func Printable(name string) string { return PrintableUpTo(name, MaxPrintable) }

// PrintableUpTo is Printable with another maximum.
func PrintableUpTo(name string, most int) string {
	var b strings.Builder
	n := 0
	for _, r := range name { // an invalid byte comes as U+FFFD
		if n++; n > most {
			break
		}
		if !unicode.IsPrint(r) {
			r = unicode.ReplacementChar
		}
		b.WriteRune(r)
	}
	return b.String()
}
