package watch

import (
	"fmt"
	"time"

	"sockstate_exporter/internal/sock"
)

// A Plan is a checked Config. It makes the Watchers of all network namespaces and protocols,
// which share Config.MaxPorts: the ports that were asked for come first, TCP before UDP, and
// then those that are discovered, with a share for each user (network namespace and uid). It may
// be used by several goroutines.
type Plan struct {
	listeners bool
	retention time.Duration
	budget    *budget
	failing   *failing
	rules     [2]rules // of TCP and UDP
}

// rules are what was asked for of one protocol.
type rules struct {
	asked    portSet // all of them, those beyond the budget too
	names    map[uint16]Spec
	kept     []Port // those within the budget, by number; not nil
	excluded portSet
}

// NewPlan checks cfg. Two different names for one port are an error; a name and no name are
// not, the name holds.
func NewPlan(cfg Config) (*Plan, error) {
	if cfg.MaxPorts < 1 {
		return nil, fmt.Errorf("limit of %d watched ports is too low, want 1 or more", cfg.MaxPorts)
	}
	if cfg.Retention < 0 {
		return nil, fmt.Errorf("retention %v is negative, want 0s or more", cfg.Retention)
	}
	p := &Plan{
		listeners: cfg.Listeners,
		retention: cfg.Retention,
		budget:    &budget{limit: cfg.MaxPorts, users: make(map[user]*shareholder)},
		failing:   newFailing(cfg.Retention),
	}
	for _, e := range cfg.Exclude {
		if err := e.check(); err != nil {
			return nil, err
		}
		p.rules[e.Protocol].excluded.addRange(e.PortRange)
	}
	for i := range p.rules {
		if err := p.rules[i].ask(sock.Protocol(i), cfg.Ports, p.budget); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (r *rules) ask(protocol sock.Protocol, specs []Spec, b *budget) error {
	r.names = make(map[uint16]Spec)
	for _, s := range specs {
		if err := s.check(); err != nil {
			return err
		}
		if s.Protocol != protocol {
			continue
		}
		r.asked.addRange(s.PortRange)
		if s.Name == "" {
			continue
		}
		for p := int(s.First); p <= int(s.Last); p++ {
			old, named := r.names[uint16(p)]
			if named && old.Name != s.Name {
				return fmt.Errorf("port %d has two names, %q (from %q) and %q (from %q), want one",
					p, old.Name, old, s.Name, s)
			}
			r.names[uint16(p)] = s
		}
	}
	room := b.claimFlags(r.asked.len())
	r.kept = make([]Port, 0, room)
	for p := range r.asked.all() {
		if len(r.kept) == room {
			break
		}
		r.kept = append(r.kept, Port{Number: p, Name: r.names[p].Name, Source: SourceFlag})
	}
	return nil
}

// Own is the Watcher of the exporter's own network namespace.
func (p *Plan) Own(protocol sock.Protocol) *Watcher {
	w := p.Elsewhere(protocol, 0)
	w.kept = w.rules.kept
	w.set = w.build()
	return w
}

// Elsewhere is the Watcher of another namespace, by its inode number. There, a port that was asked
// for is discovered like others, whatever Config.Listeners and Config.Exclude say, and keeps its
// name. It is not watched before, because most namespaces never have a listener on it. If the
// budget is full, it takes the place of a port that nobody asked for.
func (p *Plan) Elsewhere(protocol sock.Protocol, netns uint32) *Watcher {
	w := &Watcher{
		plan: p, rules: &p.rules[protocol], protocol: protocol, netns: netns,
		seen: make(map[uint16]server), places: make(map[uint16]*place),
	}
	w.set = w.build()
	return w
}

// MostPorts returns how many ports all Watchers can watch: Config.MaxPorts, and those where binds fail.
func (p *Plan) MostPorts() int { return p.budget.limit + maxFailing }
