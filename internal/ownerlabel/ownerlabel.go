// Package ownerlabel has the labels of owners.
package ownerlabel

import (
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/sock"
)

// Many is the label of those who have had too many names on a port.
const Many = "(many)"

// Process is the label of a process, whose name may have any bytes.
func Process(name string, o *owner.Owner) string {
	if o.Many.Process {
		return Many
	}
	return sock.Printable(name)
}

// Unit is the label of the unit or container of a process.
func Unit(o *owner.Owner) string {
	if o.Many.Unit {
		return Many
	}
	return sock.Printable(o.Service())
}
