package snapshot

import (
	"strconv"
	"strings"

	"sockstate_exporter/internal/sock"
)

// OtherNetns is the label of all network namespaces that are not watched.
const OtherNetns = "other"

// Label returns the name of the namespace as people see it. It is empty for the exporter's own. The
// inode number is added to a name that is not printable, to one that is the word for all namespaces
// that are not watched, and to one that could be mistaken for a name with a number. So no two
// namespaces have the same label.
func (n *Namespace) Label() string {
	label := sock.Printable(n.Name)
	if label != n.Name || label == OtherNetns || strings.Contains(label, "#") {
		label += "#" + strconv.FormatUint(uint64(n.Inode), 10)
	}
	return label
}
