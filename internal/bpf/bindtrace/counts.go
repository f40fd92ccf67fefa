//go:build linux

package bindtrace

import "sockstate_exporter/internal/bpf/bindtrace/slots"

// An Op is a call that failed.
type Op = slots.Op

// A Key says which failures a Count counts.
type Key = slots.Key

// A Count says how many calls failed.
type Count = slots.Count

// The calls.
const (
	OpBind    = slots.OpBind
	OpListen  = slots.OpListen
	OpConnect = slots.OpConnect
)
