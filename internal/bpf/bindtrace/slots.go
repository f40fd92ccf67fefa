//go:build linux

package bindtrace

import "time"

// sums are the counts of a slot.
type sums [slotCounts]uint64

func (s *sums) add(o *sums) {
	for i, n := range o {
		s[i] += n
	}
}

func (s *sums) subtract(o *sums) {
	for i, n := range o {
		s[i] -= n
	}
}

// A slotReader reads the slots of the kernel.
type slotReader interface {
	// open prepares a slot for reading.
	open(slot int) error
	// read reads the counts of a slot, or returns false where there are none. A count never falls.
	read(slot int, to *sums) bool
}

// slots says which place has which slot of the kernel. The programs only add to slots. So a slot
// that gets another place keeps its counts, and what it had counted before is subtracted.
//
// No sum over the places of a namespace falls, and no sum over all. When a place is given up, its
// counts move to its heir. When it comes back, it starts at 0.
type slots struct {
	reader slotReader
	index  *index
	limit  int

	accounts map[place]*account
	before   map[int]*sums // by slot: what it counted for earlier places
	fresh    int           // no slot from here up was used yet
	free     []int         // used before
	leaving  []leaving

	lacking    int // places that are watched and have no slot
	maxDetails int
}

// An account is the slot of a place.
type account struct {
	slot    int
	carried *sums            // of places whose heir this one is; nil: none
	details map[int]struct{} // the counts that are not common, and that have a Key of their own
}

// A leaving slot has no place any more. A program that found it before may still count in it, for a
// moment: a slot waits for leavingTime until it gets a new place. Its counts are the heir's.
type leaving struct {
	slot  int
	heir  place
	since time.Time
}

const (
	leavingTime = time.Second

	// defaultMaxDetails bounds the series that a process can make of a port by failing in ever
	// new ways.
	defaultMaxDetails = 8
)

// newSlots returns slots where only the namespaces that are not watched count.
func newSlots(reader slotReader, limit, maxDetails int, factor uint64) (*slots, error) {
	s := &slots{
		reader: reader, index: &index{factor: factor | 1}, limit: limit, maxDetails: maxDetails,
		accounts: map[place]*account{{other: true}: {slot: 0}}, before: make(map[int]*sums), fresh: 1,
	}
	return s, reader.open(0)
}

// assign gives each place a slot, the first ones first, and takes the slots of all others. A place
// that has a slot keeps it. A place whose namespace has none counts nothing, and gets none.
func (s *slots) assign(places []place) error {
	s.settle(time.Now())
	wanted := make(map[place]struct{}, len(places))
	for _, p := range places {
		wanted[p] = struct{}{}
	}
	for p, a := range s.accounts {
		if _, ok := wanted[p]; !ok && p != (place{other: true}) {
			s.giveUp(p, a)
		}
	}
	// A namespace that is watched later may have the number of one that is gone.
	for i := range s.leaving {
		if l := &s.leaving[i]; s.accounts[l.heir] == nil {
			l.heir = l.heir.heir()
		}
	}
	s.lacking = 0
	for _, p := range places {
		if _, ok := s.accounts[p]; ok {
			continue
		}
		_, counted := s.accounts[place{netns: p.netns, other: true}]
		if !counted && !p.other {
			s.lacking++
			continue
		}
		ok, err := s.open(p)
		if err != nil {
			return err
		}
		if !ok {
			s.lacking++
		}
	}
	return nil
}

// open gives a place a slot. It returns false where there is no room.
func (s *slots) open(p place) (bool, error) {
	slot, last := s.fresh, len(s.free)-1
	switch {
	case last >= 0:
		slot = s.free[last]
	case s.fresh == s.limit:
		return false, nil
	}
	if err := s.reader.open(slot); err != nil {
		return false, err
	}
	if !s.index.put(p, slot) {
		return false, nil
	}
	if last >= 0 {
		s.free = s.free[:last]
	} else {
		s.fresh++
	}
	s.accounts[p] = &account{slot: slot}
	return true, nil
}

func (s *slots) giveUp(p place, a *account) {
	s.index.remove(p)
	delete(s.accounts, p)
	s.leaving = append(s.leaving, leaving{slot: a.slot, heir: p.heir(), since: time.Now()})
	if a.carried != nil {
		s.carry(p.heir(), a.carried)
	}
}

// carry adds to what a place has from others.
func (s *slots) carry(to place, n *sums) {
	a := s.existing(to)
	if a.carried == nil {
		a.carried = new(sums)
	}
	a.carried.add(n)
}

// existing returns the account of a place, or of its heir where it has no slot.
func (s *slots) existing(p place) *account {
	for {
		if a, ok := s.accounts[p]; ok {
			return a
		}
		p = p.heir()
	}
}

// settle gives the heirs the counts of slots in which nothing counts any more.
func (s *slots) settle(now time.Time) {
	kept := s.leaving[:0]
	for _, l := range s.leaving {
		if now.Sub(l.since) < leavingTime {
			kept = append(kept, l)
			continue
		}
		var n sums
		if s.reader.read(l.slot, &n) {
			all := n
			if before := s.before[l.slot]; before != nil {
				n.subtract(before)
			}
			s.before[l.slot] = &all
			s.carry(l.heir, &n)
		}
		s.free = append(s.free, l.slot)
	}
	s.leaving = kept
}

// current reads what a slot has counted for its place, or returns false where that is nothing.
func (s *slots) current(slot int, n *sums) bool {
	if !s.reader.read(slot, n) {
		return false
	}
	if before := s.before[slot]; before != nil {
		n.subtract(before)
	}
	return true
}

// used returns the number of slots that are in use.
func (s *slots) used() int { return len(s.accounts) + len(s.leaving) }

// appendTo appends the counts above 0.
func (s *slots) appendTo(dst []Count) []Count {
	inherited := make(map[*account]*sums)
	n := new(sums) // one for all: most slots have counted nothing
	for _, l := range s.leaving {
		if s.current(l.slot, n) {
			a := s.existing(l.heir)
			if inherited[a] == nil {
				inherited[a] = new(sums)
			}
			inherited[a].add(n)
		}
	}
	for p, a := range s.accounts {
		counted := s.current(a.slot, n)
		for _, more := range []*sums{a.carried, inherited[a]} {
			switch {
			case more == nil:
			case counted:
				n.add(more)
			default:
				*n, counted = *more, true
			}
		}
		if counted {
			dst = s.appendAccount(dst, p, a, n)
		}
	}
	return dst
}

// appendAccount appends the counts of a place. What is not common, and more than the place may
// have, counts without its errno. What was told apart once stays so: no count falls.
func (s *slots) appendAccount(dst []Count, p place, a *account, n *sums) []Count {
	for i := range n {
		if n[i] == 0 {
			continue
		}
		key := keyOf(p, i)
		if key.common() || a.detail(i, s.maxDetails) {
			continue
		}
		n[withoutErrno(i)] += n[i]
		n[i] = 0
	}
	for i, count := range n {
		if count > 0 {
			dst = append(dst, Count{Key: keyOf(p, i), N: count})
		}
	}
	return dst
}

// detail says whether a count has a Key of its own.
func (a *account) detail(i, most int) bool {
	if _, ok := a.details[i]; ok {
		return true
	}
	if len(a.details) >= most {
		return false
	}
	if a.details == nil {
		a.details = make(map[int]struct{})
	}
	a.details[i] = struct{}{}
	return true
}
