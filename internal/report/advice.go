package report

import (
	"net/netip"
	"slices"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/diagnosis"
)

// advise sets the diagnosis of the outcome, and what there is to say about the port in sentences: why the
// answer to the question is not "free", then what else is wrong. A diagnosis is told once.
func (p *PortReport) advise(q *Query, onlyIPv6 *Diagnosis) {
	p.Advice, p.Diagnosis = []string{}, p.decides.Diagnosis
	p.add(p.Split) // before advice to stop one of the servers
	gone := false
	for i := range p.Listeners {
		if l := &p.Listeners[i]; l.asked {
			p.add(l.Restart.Diagnosis)
		}
	}
	for i := range p.Restarts {
		if r := &p.Restarts[i]; !r.Listening && !p.InUse {
			gone = true
			p.add(r.Answer.Diagnosis)
		}
	}
	if !gone && (!q.Restart || !p.InUse) {
		p.add(p.Diagnosis)
	}
	if b := p.notServed(q.ReuseAddr); p.InUse && b != nil {
		p.add(b.answer(q.ReuseAddr).Diagnosis)
	}
	if p.Split == nil {
		p.add(onlyIPv6)
	}
	if on := withoutReuseAddr(p.Listeners); len(on) > 0 {
		d := diagnosis.OfNoReuseAddr(on)
		p.add(NewDiagnosis(&d))
	}
}

// withoutReuseAddr are the addresses of servers whose restart will be blocked some day.
func withoutReuseAddr(listeners []ListenerReport) []netip.Addr {
	var on []netip.Addr
	for i := range listeners {
		if l := &listeners[i]; l.asked && l.ReuseAddr == bindrule.No && !slices.Contains(on, l.Address) {
			on = append(on, l.Address)
		}
	}
	return on
}
