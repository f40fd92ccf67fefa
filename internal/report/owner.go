package report

import (
	"encoding/json"

	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/words"
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
	return words.Process(o.Process, int(o.PID), place, max(o.Processes-1, 0))
}

// Place is the unit and the container of the process.
func (o *Owner) Place() string {
	if o == nil {
		return ""
	}
	return words.Place(o.Unit, o.Container)
}
