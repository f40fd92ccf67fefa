package snapshot

import (
	"strconv"
	"strings"

	"sockstate_exporter/internal/sock"
)

// OtherNetns is the label of all network namespaces that are not watched.
const OtherNetns = "other"

// Label is the name of a namespace as it is shown: empty for the exporter's own. One that had
// to be changed, or means something else there, or looks like such a one, gets the namespace's
// number: two of them may look the same now, and must be told apart.
func (n *Namespace) Label() string {
	label := sock.Printable(n.Name)
	if label != n.Name || label == OtherNetns || strings.Contains(label, "#") {
		label += "#" + strconv.FormatUint(uint64(n.Inode), 10)
	}
	return label
}
