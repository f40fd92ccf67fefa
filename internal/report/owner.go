package report

import (
	"encoding/json"
	"fmt"
	"strings"

	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/sock"
)

// An Owner is the process that has a socket, or asked for one. Its names may contain any bytes.
type Owner struct {
	Process   string `json:"process"`
	PID       uint32 `json:"pid"`
	Processes int    `json:"processes"` // that share the socket
	Unit      string `json:"unit"`      // systemd unit, or empty
	Container string `json:"container"`
}

// MarshalJSON implements json.Marshaler: names as in the metrics.
func (o *Owner) MarshalJSON() ([]byte, error) {
	type plainOwner Owner
	out := plainOwner(*o)
	out.Process, out.Unit, out.Container = sock.Printable(o.Process), sock.Printable(o.Unit), sock.Printable(o.Container)
	return json.Marshal(out)
}

// NewOwner is nil if nothing is known.
func NewOwner(o *owner.Owner) *Owner {
	if !o.Known() {
		return nil
	}
	return &Owner{Process: o.Process, PID: uint32(o.PID), Processes: o.Processes, Unit: o.Unit, Container: o.ShortContainer()}
}

// Who says in one line which process that is. It is empty if no more than its unit is known.
func (o *Owner) Who() string {
	if o == nil || o.Process == "" && o.PID == 0 {
		return ""
	}
	return o.text("")
}

// String says in one line who that is, and what the process belongs to.
func (o *Owner) String() string { return o.text(o.Place()) }

func (o *Owner) text(place string) string {
	who := "unnamed process"
	if o.Process != "" {
		who = Name(o.Process)
	}
	var about []string
	if o.PID != 0 {
		about = append(about, fmt.Sprintf("pid %d", o.PID))
	}
	if place != "" {
		about = append(about, place)
	}
	if len(about) > 0 {
		who += " (" + strings.Join(about, ", ") + ")"
	}
	if o.Processes > 1 {
		who += fmt.Sprintf(" and %d more", o.Processes-1)
	}
	return who
}

// Place is the unit and the container of the process.
func (o *Owner) Place() string {
	if o == nil {
		return ""
	}
	var in []string
	if o.Unit != "" {
		in = append(in, Name(o.Unit))
	}
	if o.Container != "" {
		in = append(in, "container "+Name(o.Container))
	}
	return strings.Join(in, ", ")
}
