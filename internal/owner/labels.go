package owner

import "sockstate_exporter/internal/sock"

// manyNames is the label of those who have had too many names on a port.
const manyNames = "(many)"

// Labels are the values of the labels "process", "unit" and "container". name is that of the process,
// which may be known without an Owner.
func (o Owner) Labels(name string) (process, unit, container string) {
	process, unit, container = sock.Printable(name), sock.Printable(o.UnitLabel()), o.Named.Label()
	if o.Many.Process {
		process = manyNames
	}
	if o.Many.Unit {
		if unit != "" {
			unit = manyNames
		}
		if container != "" {
			container = manyNames
		}
	}
	return process, unit, container
}

// UnitLabel returns the unit of the process. For a container without a unit of its own it returns nothing
// if the container has a name, and else runtime and id.
func (o Owner) UnitLabel() string {
	if o.Named == (sock.Container{}) {
		return o.Service()
	}
	return o.place().OwnUnit()
}

// ShownUnit returns the unit in texts: all of them, but not the scope of a container that has a name.
func (o Owner) ShownUnit() string {
	if o.Named == (sock.Container{}) {
		return o.Unit
	}
	return o.place().OwnUnit()
}

// ShownContainer returns the container in texts. It is empty where only the pod is known.
func (o Owner) ShownContainer() string {
	if o.Named == (sock.Container{}) {
		return o.ShortContainer()
	}
	return o.Named.Name
}

// Place is what the labels "unit" and "container" say.
func (o Owner) Place() string {
	if container := o.Named.Label(); container != "" {
		return o.UnitLabel() + "/" + container
	}
	return o.UnitLabel()
}
