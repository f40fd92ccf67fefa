package report

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	"sockstate_exporter/internal/facts"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/words"
)

// An Owner is the process that has a socket, or asked for one. Its names may contain any bytes.
type Owner struct {
	Process   string `json:"process"`
	PID       uint32 `json:"pid"`
	Processes int    `json:"processes"` // that share the socket
	Unit      string `json:"unit"`      // systemd unit, or empty
	Pod       string `json:"pod"`       // NAMESPACE/POD of Kubernetes, or empty
	Container string `json:"container"` // its name; an id if it is not known
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
	return &Owner{Process: o.Process, PID: uint32(o.PID), Processes: o.Processes, Unit: o.ShownUnit(), Pod: o.Named.PodName(), Container: o.ShownContainer()}
}

// newOwners are those of a group of listeners.
func newOwners(g *ports.Group) []Owner {
	out := []Owner{}
	for _, o := range g.AllOwners() {
		out = append(out, *NewOwner(&o))
	}
	return out
}

// By names the owners. It is empty if none is known.
func (l *ListenerReport) By() string {
	var names []string
	for i := range l.Owners {
		names = append(names, l.Owners[i].String())
	}
	if l.LeftOut > 0 {
		names = append(names, fmt.Sprintf("%d more", l.LeftOut))
	}
	return words.And(names)
}

// Who says in one line which process that is. It is empty if no more than its unit is known.
func (o *Owner) Who() string {
	if o == nil || o.Process == "" && o.PID == 0 {
		return ""
	}
	return o.text(words.Place{})
}

// String says in one line who that is, and what the process belongs to.
func (o *Owner) String() string { return o.text(o.at()) }

func (o *Owner) text(at words.Place) string {
	return words.Process(o.Process, int(o.PID), at, max(o.Processes-1, 0))
}

// Place is the unit, the pod and the container of the process.
func (o *Owner) Place() string {
	if o == nil {
		return ""
	}
	return o.at().String()
}

func (o *Owner) at() words.Place {
	return words.Place{Unit: o.Unit, Pod: o.Pod, Container: o.Container}
}

// A Holder is a process with sockets open that do not listen: connections, or bound ones.
type Holder struct {
	Owner   Owner             `json:"owner"`
	Sockets map[string]uint64 `json:"sockets"` // by state, as in the metrics
}

// holders are the processes that are known, those with most sockets first.
func holders(open []facts.Open) []Holder {
	out, index := []Holder{}, make(map[int]int)
	for i := range open {
		o := &open[i]
		if !o.Owner.Known() {
			continue
		}
		n, ok := index[o.Owner.PID]
		if !ok {
			n = len(out)
			index[o.Owner.PID] = n
			out = append(out, Holder{*NewOwner(&o.Owner), make(map[string]uint64)})
		}
		out[n].Sockets[o.State.String()] += o.Count
		out[n].Owner.Processes = max(out[n].Owner.Processes, o.Owner.Processes)
	}
	slices.SortFunc(out, func(a, b Holder) int {
		return cmp.Or(cmp.Compare(total(b.Sockets), total(a.Sockets)), cmp.Compare(a.Owner.PID, b.Owner.PID))
	})
	return out
}

func total(sockets map[string]uint64) (n uint64) {
	for _, of := range sockets {
		n += of
	}
	return n
}
