package report

import (
	"fmt"
	"net/netip"
	"strings"

	"sockstate_exporter/internal/bpf/bindtrace"
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
		d.Sentence += "; " + otherHalf(c)
	}
	call := map[bindtrace.Op]string{bindtrace.OpBind: "bind to", bindtrace.OpListen: "listen on", bindtrace.OpConnect: "connect to"}[c.Op]
	return fmt.Sprintf("%s %s by %s (pid %d%s) failed: %s", call, where, who, c.PID, place, d.Line())
}

func otherHalf(c *failures.Conflict) string {
	this, that := "IPv6", "IPv4"
	if c.Request.Addr.Unmap().Is4() {
		this, that = that, this
	}
	listening := make([]string, len(c.OtherHalf))
	for i, a := range c.OtherHalf {
		listening[i] = a.String()
	}
	verb := " listens"
	if len(listening) > 1 {
		verb = " listen"
	}
	return "only the " + this + " half failed, for " + that + " " + strings.Join(listening, " and ") + verb
}
