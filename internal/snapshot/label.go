package snapshot

import (
	"strconv"
	"strings"
	"unicode"
)

// maxPrintable bounds a name that comes from outside the exporter, in runes.
const maxPrintable = 64

// Printable makes valid, printable UTF-8 of bounded length of a name that the kernel hardly
// restricts, whatever bytes it was.
func Printable(name string) string {
	var b strings.Builder
	n := 0
	for _, r := range name { // an invalid byte comes as U+FFFD
		if n++; n > maxPrintable {
			break
		}
		if !unicode.IsPrint(r) {
			r = unicode.ReplacementChar
		}
		b.WriteRune(r)
	}
	return b.String()
}

// OtherNetns is the label of all network namespaces that are not watched.
const OtherNetns = "other"

// Label is the name of a namespace as it is shown: empty for the exporter's own. One that had
// to be changed, or means something else there, or looks like such a one, gets the namespace's
// number: two of them may look the same now, and must be told apart.
func (n *Namespace) Label() string {
	label := Printable(n.Name)
	if label != n.Name || label == OtherNetns || strings.Contains(label, "#") {
		label += "#" + strconv.FormatUint(uint64(n.Inode), 10)
	}
	return label
}
