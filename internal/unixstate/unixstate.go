// Package unixstate has what a snapshot knows of Unix sockets.
package unixstate

import (
	"sockstate_exporter/internal/unixfailures"
	"sockstate_exporter/internal/unixwatch"
)

// A State is that of the Unix sockets of a host. A part that is switched off, or does not work here, is nil.
type State struct {
	Failures *unixfailures.State
	Watch    *unixwatch.State
}
