package netns

import (
	"strconv"
	"strings"

	"sockstate_exporter/internal/sock"
)

// OtherLabel is the label of all network namespaces that are not watched.
const OtherLabel = "other"

// Label returns a name of a namespace as people see it. It is empty for the exporter's own. The inode
// number is added to a name that is not printable, to one that is the word for all namespaces that
// are not watched, and to one that could be mistaken for a name with a number. So no two namespaces
// have the same label.
func Label(name string, inode uint32) string {
	label := sock.PrintableUpTo(name, MaxName)
	if label != name || label == OtherLabel || strings.Contains(label, "#") {
		label += "#" + strconv.FormatUint(uint64(inode), 10)
	}
	return label
}
