package status

import (
	"encoding/json"
	"fmt"
	"strings"

	"sockstate_exporter/internal/failures"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/verdict"
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
	o.Process, o.Unit, o.Container = sock.Printable(o.Process), sock.Printable(o.Unit), sock.Printable(o.Container)
	return json.Marshal(plainOwner(o))
}

// listenerOwner is nil where it is not known.
func listenerOwner(g *ports.Group) *Owner {
	o := &g.Owner
	if !o.Known() {
		return nil
	}
	return &Owner{Process: o.Process, PID: uint32(o.PID), Processes: o.Processes, Unit: o.Unit, Container: o.ShortContainer()}
}

// restartOwner is whose listener it is, or was.
func restartOwner(r *verdict.Restart) *Owner {
	return listenerOwner(&ports.Group{Owner: r.Owner})
}

// failureOwner is who called bind(): of the process, only what was found before it ended is
// known, but always what the thread was called.
func failureOwner(f *failures.Recent) *Owner {
	return &Owner{Process: f.Process, PID: f.PID, Processes: 1, Unit: f.Owner.Unit, Container: f.Owner.ShortContainer()}
}

// ownerText says in one line who that is.
func ownerText(o *Owner) string {
	if o == nil || o.Process == "" && o.PID == 0 { // no more than its unit is known
		return ""
	}
	return o.text("")
}

// String says in one line who that is, and what the process belongs to.
func (o Owner) String() string { return o.text(ownerPlace(&o)) }

func (o Owner) text(place string) string {
	who := "unnamed process"
	if o.Process != "" {
		who = name(o.Process)
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
