//go:build linux

package slots

import "time"

// Sums are the counts of a slot.
type Sums [SlotCounts]uint64

func (s *Sums) add(o *Sums) {
	for i, n := range o {
		s[i] += n
	}
}

func (s *Sums) subtract(o *Sums) {
	for i, n := range o {
		s[i] -= n
	}
}

// A Reader reads the slots of the kernel.
type Reader interface {
	// Open prepares a slot for reading.
	Open(slot int) error
	// Read reads the counts of a slot, or returns false where there are none. A count never falls.
	Read(slot int, to *Sums) bool
}

// A Table says which place has which slot of the kernel. The programs only add to slots. So a slot
// that gets another place keeps its counts, and what it had counted before is subtracted.
//
// No sum over the places of a namespace falls, and no sum over all. When a place is given up, its
// counts move to its heir. When it comes back, it starts at 0.
type Table struct {
	reader Reader
	Index  *Index
	Limit  int

	accounts map[Place]*account
	before   map[int]*Sums // by slot: what it counted for earlier places
	fresh    int           // no slot from here up was used yet
	free     []int         // used before
	leaving  []leaving

	Lacking    int // places that are watched and have no slot
	maxDetails int
}

// An account is the slot of a place.
type account struct {
	slot    int
	carried *Sums            // of places whose heir this one is; nil: none
	details map[int]struct{} // the counts that are not common, and that have a Key of their own
}

// A leaving slot has no place any more. A program that found it before may still count in it, for a
// moment: a slot waits for LeavingTime until it gets a new place. Its counts are the heir's.
type leaving struct {
	slot  int
	heir  Place
	since time.Time
}

const (
	// LeavingTime is how long a slot waits for its next place.
	LeavingTime = time.Second

	// DefaultMaxDetails bounds the series that a process can make of a port by failing in ever
	// new ways.
	DefaultMaxDetails = 8
)

// New returns a Table where only the namespaces that are not watched count.
func New(reader Reader, limit, maxDetails int, factor uint64) (*Table, error) {
	s := &Table{
		reader: reader, Index: &Index{factor: factor | 1}, Limit: limit, maxDetails: maxDetails,
		accounts: map[Place]*account{{Other: true}: {slot: 0}}, before: make(map[int]*Sums), fresh: 1,
	}
	return s, reader.Open(0)
}

// Assign gives each place a slot, the first ones first, and takes the slots of all others. A place
// that has a slot keeps it. A place whose namespace has none counts nothing, and gets none.
func (s *Table) Assign(places []Place) error {
	s.settle(time.Now())
	wanted := make(map[Place]struct{}, len(places))
	for _, p := range places {
		wanted[p] = struct{}{}
	}
	for p, a := range s.accounts {
		if _, ok := wanted[p]; !ok && p != (Place{Other: true}) {
			s.giveUp(p, a)
		}
	}
	// A namespace that is watched later may have the number of one that is gone.
	for i := range s.leaving {
		if l := &s.leaving[i]; s.accounts[l.heir] == nil {
			l.heir = l.heir.heir()
		}
	}
	s.Lacking = 0
	for _, p := range places {
		if _, ok := s.accounts[p]; ok {
			continue
		}
		_, counted := s.accounts[Place{Netns: p.Netns, Other: true}]
		if !counted && !p.Other {
			s.Lacking++
			continue
		}
		ok, err := s.open(p)
		if err != nil {
			return err
		}
		if !ok {
			s.Lacking++
		}
	}
	return nil
}

// open gives a place a slot. It returns false where there is no room.
func (s *Table) open(p Place) (bool, error) {
	slot, last := s.fresh, len(s.free)-1
	switch {
	case last >= 0:
		slot = s.free[last]
	case s.fresh == s.Limit:
		return false, nil
	}
	if err := s.reader.Open(slot); err != nil {
		return false, err
	}
	if !s.Index.put(p, slot) {
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

func (s *Table) giveUp(p Place, a *account) {
	s.Index.remove(p)
	delete(s.accounts, p)
	s.leaving = append(s.leaving, leaving{slot: a.slot, heir: p.heir(), since: time.Now()})
	if a.carried != nil {
		s.carry(p.heir(), a.carried)
	}
}

// carry adds to what a place has from others.
func (s *Table) carry(to Place, n *Sums) {
	a := s.existing(to)
	if a.carried == nil {
		a.carried = new(Sums)
	}
	a.carried.add(n)
}

// existing returns the account of a place, or of its heir where it has no slot.
func (s *Table) existing(p Place) *account {
	for {
		if a, ok := s.accounts[p]; ok {
			return a
		}
		p = p.heir()
	}
}

// settle gives the heirs the counts of slots in which nothing counts any more.
func (s *Table) settle(now time.Time) {
	kept := s.leaving[:0]
	for _, l := range s.leaving {
		if now.Sub(l.since) < LeavingTime {
			kept = append(kept, l)
			continue
		}
		var n Sums
		if s.reader.Read(l.slot, &n) {
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
func (s *Table) current(slot int, n *Sums) bool {
	if !s.reader.Read(slot, n) {
		return false
	}
	if before := s.before[slot]; before != nil {
		n.subtract(before)
	}
	return true
}

// Used returns the number of slots that are in use.
func (s *Table) Used() int { return len(s.accounts) + len(s.leaving) }

// AppendTo appends the counts above 0: those of Unix sockets, or all others.
func (s *Table) AppendTo(dst []Count, unixSockets bool) []Count {
	inherited := make(map[*account]*Sums)
	n := new(Sums) // one for all: most slots have counted nothing
	for _, l := range s.leaving {
		if s.current(l.slot, n) {
			a := s.existing(l.heir)
			if inherited[a] == nil {
				inherited[a] = new(Sums)
			}
			inherited[a].add(n)
		}
	}
	for p, a := range s.accounts {
		counted := s.current(a.slot, n)
		for _, more := range []*Sums{a.carried, inherited[a]} {
			switch {
			case more == nil:
			case counted:
				n.add(more)
			default:
				*n, counted = *more, true
			}
		}
		if counted {
			dst = s.appendAccount(dst, p, a, n, unixSockets)
		}
	}
	return dst
}

// appendAccount appends the counts of a place. What is not common, and more than the place may
// have, counts without its errno. What was told apart once stays so: no count falls.
func (s *Table) appendAccount(dst []Count, p Place, a *account, n *Sums, unixSockets bool) []Count {
	if unixSockets {
		return appendCounts(dst, p, n[:], InetCounts)
	}
	for i := range InetCounts {
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
	return appendCounts(dst, p, n[:InetCounts], 0)
}

// appendCounts appends the counts from a number on.
func appendCounts(dst []Count, p Place, counts []uint64, from int) []Count {
	for i := from; i < len(counts); i++ {
		if counts[i] > 0 {
			dst = append(dst, Count{Key: keyOf(p, i), N: counts[i]})
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
