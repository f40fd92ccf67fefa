//go:build linux

package bindtrace

import "sockstate_exporter/internal/bpf/bindtrace/slots"

// What a Tracer counts.
type (
	Op    = slots.Op
	Key   = slots.Key
	Count = slots.Count
)

// The calls.
const (
	OpBind    = slots.OpBind
	OpListen  = slots.OpListen
	OpConnect = slots.OpConnect
)
