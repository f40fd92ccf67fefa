package collector

import (
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/sock"
)

// manyNames is the label of those who have had too many names on a port.
const manyNames = "(many)"

func processLabel(name string, o *owner.Owner) string {
	if o.Many.Process {
		return manyNames
	}
	return sock.Printable(name)
}

func unitLabel(o *owner.Owner) string {
	if o.Many.Unit {
		return manyNames
	}
	return sock.Printable(o.Service())
}
