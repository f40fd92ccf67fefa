package watch

import (
	"cmp"
	"slices"
	"sync"
)

// A user is who made the sockets on a port. In pods nearly everybody is uid 0, and a pod can have many
// uids, so the network namespace counts first.
type user struct {
	netns uint32 // inode number, 0 for the exporter's own
	uid   uint32 // by share.Account
}

// A budget is how many ports may be watched in all. A port that has its place keeps it, with two
// exceptions: a port with a name of its own takes the place of one that was found, and a network
// namespace with few ports takes the place of the newest port of the user with most, in the namespace with
// most. So do users in one namespace.
type budget struct {
	limit int

	mu    sync.Mutex
	users map[user]*shareholder
	used  int // all places, with those of ports that are watched whoever listens

	changes uint64 // counts them
}

// A shareholder is a user who has places.
type shareholder struct {
	user
	places []*place // in the order in which they were given
	found  int      // of places: not asked for
}

// A place is one port's share of the budget.
type place struct {
	of    *Watcher
	port  uint16
	user  user
	asked bool

	// A place that another Watcher has to give up stays until that Watcher's next Update, so that
	// there are never more ports than the limit: heir gets it then, and waits for before.
	heir, before *place
}

// A want is a port that a Watcher would watch.
type want struct {
	port  uint16
	user  user
	asked bool
}

// claimFlags gives places to ports that are watched whoever listens. Nobody else may have one yet.
func (b *budget) claimFlags(wanted int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	granted := min(wanted, b.limit-b.used)
	b.used += granted
	return granted
}

// due says that the Watcher has to settle: a place of it is given to somebody else, or it has a new
// one, or it waits for one and something has changed.
func (b *budget) due(w *Watcher, waits bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return w.disturbed || waits && w.settled != b.changes
}

// settle gives back the places of ports that are not in wants, and asks for places of those that
// have none. It fills has with the ports that have one now.
func (b *budget) settle(w *Watcher, wants []want, has *portSet) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.giveUp(w, wants)
	type kind struct {
		user  user
		asked bool
	}
	refused := make(map[kind]bool) // whoever is refused one place is refused the next
	for _, asked := range []bool{true, false} {
		for _, n := range wants {
			k := kind{n.user, n.asked}
			if n.asked != asked || w.places[n.port] != nil || refused[k] {
				continue
			}
			refused[k] = !b.claim(w, n)
		}
	}
	*has = portSet{}
	for port, p := range w.places {
		if p.before == nil {
			has.add(port)
		}
	}
	w.disturbed, w.settled = false, b.changes
}

// giveUp gives back places, and those that somebody else gets.
func (b *budget) giveUp(w *Watcher, wants []want) {
	var wanted portSet
	for _, n := range wants {
		wanted.add(n.port)
		if p := w.places[n.port]; p != nil && p.heir == nil && (p.user != n.user || p.asked != n.asked) {
			b.discharge(p)
			p.user, p.asked = n.user, n.asked
			b.charge(p)
		}
	}
	for port, p := range w.places {
		if p.heir != nil || !wanted.has(port) {
			b.release(p)
		}
	}
}

// claim gives the port a place, at once or when another Watcher has given it up.
func (b *budget) claim(w *Watcher, n want) bool {
	p := &place{of: w, port: n.port, user: n.user, asked: n.asked}
	if b.used >= b.limit {
		victim := b.victim(n)
		if victim == nil {
			return false
		}
		b.take(victim, p)
	} else {
		b.used++
	}
	b.charge(p)
	w.places[n.port] = p
	return true
}

// take takes the place of a victim for p.
func (b *budget) take(victim, p *place) {
	b.discharge(victim)
	switch {
	case victim.before != nil: // it never had the place
		p.before = victim.before
		p.before.heir = p
		b.remove(victim)
	case victim.of == p.of:
		b.remove(victim)
	default:
		victim.heir, p.before = p, victim
		victim.of.disturbed = true
	}
}

func (b *budget) remove(p *place) {
	delete(p.of.places, p.port)
	p.of.disturbed = true
}

// release gives a place back: to its heir, if it has one.
func (b *budget) release(p *place) {
	delete(p.of.places, p.port)
	switch {
	case p.heir != nil:
		p.heir.before = nil
		p.heir.of.disturbed = true
	case p.before != nil: // it gives up before it had the place, so the one before keeps it
		b.discharge(p)
		p.before.heir = nil
		b.charge(p.before)
	default:
		b.discharge(p)
		b.used--
	}
}

func (b *budget) charge(p *place) {
	b.changes++
	u := b.users[p.user]
	if u == nil {
		u = &shareholder{user: p.user}
		b.users[p.user] = u
	}
	u.places = append(u.places, p)
	if !p.asked {
		u.found++
	}
}

func (b *budget) discharge(p *place) {
	b.changes++
	u := b.users[p.user]
	i := slices.Index(u.places, p)
	u.places = slices.Delete(u.places, i, i+1)
	if !p.asked {
		u.found--
	}
	if len(u.places) == 0 {
		delete(b.users, p.user)
	}
}

// victim returns the place that the port may take, or nil. Network namespaces share the budget, and users
// share the part of their namespace: a container may have many users.
func (b *budget) victim(n want) *place {
	total := make(map[uint32]int)
	for _, u := range b.users {
		total[u.netns] += len(u.places)
	}
	found := func(u *shareholder) bool { return u.found > 0 }
	if n.asked {
		if most := b.most(total, found); most != nil {
			return most.newest(false)
		}
		found = func(*shareholder) bool { return true }
	}
	// With a difference of one the two would only change their roles.
	most := b.most(total, found)
	if most != nil && most.netns != n.user.netns && total[most.netns] >= total[n.user.netns]+2 {
		return most.newest(n.asked)
	}
	most = b.most(total, func(u *shareholder) bool { return u.netns == n.user.netns && found(u) })
	has := 0
	if u := b.users[n.user]; u != nil {
		has = len(u.places)
	}
	if most == nil || len(most.places) < has+2 {
		return nil
	}
	return most.newest(n.asked)
}

// most returns the user with most places in the network namespace with most, of those who have one to give.
func (b *budget) most(total map[uint32]int, has func(*shareholder) bool) *shareholder {
	var most *shareholder
	for _, u := range b.users {
		if has(u) && (most == nil || cmp.Or(cmp.Compare(total[u.netns], total[most.netns]), u.compare(most)) > 0) {
			most = u
		}
	}
	return most
}

func (u *shareholder) compare(o *shareholder) int {
	return cmp.Or(cmp.Compare(u.netns, o.netns), cmp.Compare(len(u.places), len(o.places)), cmp.Compare(u.uid, o.uid))
}

// newest returns the user's newest place, of those that were found unless anyone will do.
func (u *shareholder) newest(anyone bool) *place {
	for _, p := range slices.Backward(u.places) {
		if anyone || !p.asked {
			return p
		}
	}
	return nil
}
