package status

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"sockstate_exporter/internal/snapshot"
)

// An Owner is who has a socket, or asked for one. Its names are any bytes.
type Owner struct {
	Process   string `json:"process"`
	PID       uint32 `json:"pid"`
	Processes int    `json:"processes"` // that share the socket
	Unit      string `json:"unit"`      // systemd's, or empty
	Container string `json:"container"`
}

// MarshalJSON implements json.Marshaler: names as in the metrics.
func (o Owner) MarshalJSON() ([]byte, error) {
	type plainOwner Owner
	o.Process, o.Unit, o.Container = clean(o.Process), clean(o.Unit), clean(o.Container)
	return json.Marshal(plainOwner(o))
}

// listenerOwner is nil where it is not known.
func listenerOwner(*snapshot.Group) *Owner { return nil }

// failureOwner is who called bind().
func failureOwner(f *snapshot.RecentFailure) *Owner {
	return &Owner{Process: f.Process, PID: f.PID, Processes: 1}
}

// ownerText says in one line who that is.
func ownerText(o *Owner) string {
	if o == nil {
		return ""
	}
	who := "unnamed process"
	if o.Process != "" {
		who = name(o.Process)
	}
	who += fmt.Sprintf(" (pid %d)", o.PID)
	if o.Processes > 1 {
		who += fmt.Sprintf(" and %d more", o.Processes-1)
	}
	return who
}

// ownerPlace is what the process belongs to.
func ownerPlace(o *Owner) string {
	if o == nil {
		return ""
	}
	var in []string
	if o.Unit != "" {
		in = append(in, name(o.Unit))
	}
	if o.Container != "" {
		in = append(in, "container "+name(o.Container))
	}
	return strings.Join(in, ", ")
}

// maxName bounds a name that comes from outside the exporter, in runes, as in the metrics.
const maxName = 64

// clean is a name as valid, printable UTF-8 of bounded length, whatever bytes it was: the same
// as in the metrics.
func clean(s string) string {
	var b strings.Builder
	n := 0
	for _, r := range s { // an invalid byte comes as U+FFFD
		if n++; n > maxName {
			break
		}
		if !unicode.IsPrint(r) {
			r = unicode.ReplacementChar
		}
		b.WriteRune(r)
	}
	return b.String()
}

// netnsName is what the metrics call the namespace: empty for the exporter's own, with its
// number where the name had to be changed.
func netnsName(ns *snapshot.Namespace) string {
	s := clean(ns.Name)
	if s != ns.Name || s == "other" {
		s += "#" + strconv.FormatUint(uint64(ns.Inode), 10)
	}
	return s
}
