package report

import (
	"fmt"
	"net/netip"
	"strings"

	"sockstate_exporter/internal/failures"
	"sockstate_exporter/internal/words"
)

// Explain says in one line why a bind() failed, without a newline at the end.
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
	return fmt.Sprintf("bind to %s by %s (pid %d%s) failed: %s", where, who, c.PID, place, d.Line())
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
