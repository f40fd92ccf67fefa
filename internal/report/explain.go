package report

import (
	"fmt"
	"net/netip"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/diagnosis"
	"sockstate_exporter/internal/failures"
	"sockstate_exporter/internal/words"
)

// Explain says in one line why a call failed, without a newline at the end.
func Explain(c *failures.Conflict) string {
	who := "a process"
	if c.Process != "" {
		who = words.Name(c.Process)
	}
	place := NewOwner(&c.Owner).Place()
	if place != "" {
		place = ", " + place
	}
	where := netip.AddrPortFrom(c.Request.Addr, c.Port)
	d := c.Diagnosis
	if len(c.OtherHalf) > 0 {
		d.Sentence += "; " + diagnosis.OfHalf(c.Request.Addr, c.OtherHalf)
	}
	call := map[bindtrace.Op]string{bindtrace.OpBind: "bind to", bindtrace.OpListen: "listen on", bindtrace.OpConnect: "connect to"}[c.Op]
	return fmt.Sprintf("%s %s by %s (pid %d%s) failed: %s", call, where, who, c.PID, place, d.Line())
}
