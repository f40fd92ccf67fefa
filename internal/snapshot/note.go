package snapshot

import (
	"errors"

	"sockstate_exporter/internal/seen"
)

// noting returns a publish for one snapshot. It also has the memory note what each part shows, and
// publishes what was seen together with the part.
func noting(m *seen.Memory, publish func(func(*Namespace))) func(func(*Namespace)) {
	var noted notedParts
	return func(set func(*Namespace)) {
		publish(func(ns *Namespace) {
			set(ns)
			noted.note(m, ns)
			ns.Seen = m.Namespace()
		})
	}
}

// notedParts are the parts of one snapshot that were noted. What a Memory needs of a part does not
// change when the part is published again.
type notedParts [9]bool

func (noted *notedParts) note(m *seen.Memory, ns *Namespace) {
	for i, part := range [len(noted)]struct {
		err  error
		note func()
	}{
		{ns.Watch.Err, func() { m.Watch(ns.Watch.Data) }},
		// Also where the collector of listeners is off: other metrics need to know the families.
		{ns.Listeners.Err, func() {
			m.Listeners(ns.Listeners.Data, ns.GroupsDropped, ns.Listeners.Err == nil || ns.Listeners.Off())
		}},
		{ns.TCP.Err, func() { m.TCP(ns.TCP.Data) }},
		{ns.UDP.Err, func() { m.UDP(&ns.UDP.Data) }},
		{ns.UDPPorts.Err, func() { m.UDPPorts(ns.UDPPorts.Data) }},
		{ns.Remote.Err, func() {
			if ns.Remote.Err == nil {
				m.Remote(ns.Remote.Data, ns.Name == "") // elsewhere, nobody misses the connections
			}
		}},
		{ns.Ephemeral.Err, func() { m.Ephemeral(&ns.Ephemeral.Data) }},
		{ns.Reuse.Err, func() { m.Unreserved(ns.Reuse.Data) }},
		{ns.Verdicts.Err, func() { m.Verdicts(ns.Verdicts.Data) }},
	} {
		if !noted[i] && !errors.Is(part.err, errPending) {
			noted[i] = true
			part.note()
		}
	}
}
