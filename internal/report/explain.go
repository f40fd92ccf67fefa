package report

import (
	"fmt"
	"net/netip"
	"strings"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/diagnosis"
	"sockstate_exporter/internal/failures"
)

// Explain says in one line why a call failed, without a newline at the end.
func Explain(c *failures.Conflict) string {
	by := Owner{Process: c.Process, PID: c.PID, Unit: c.Owner.ShownUnit(), Pod: c.Owner.Named.PodName(), Container: c.Owner.ShownContainer()}
	who := by.String()
	if c.Process == "" {
		who = "a process" + strings.TrimPrefix(who, "unnamed process")
	}
	where := netip.AddrPortFrom(c.Request.Addr, c.Port)
	d := c.Diagnosis
	if len(c.OtherHalf) > 0 {
		d.Sentence += "; " + diagnosis.OfHalf(c.Request.Addr, c.OtherHalf)
	}
	call := map[bindtrace.Op]string{bindtrace.OpBind: "bind to", bindtrace.OpListen: "listen on", bindtrace.OpConnect: "connect to"}[c.Op]
	return fmt.Sprintf("%s %s by %s failed: %s", call, where, who, d.Line())
}
