package share

import (
	"hash/maphash"
	"slices"
	"time"

	"sockstate_exporter/internal/owner"
)

// Names bounds the names of those who use one port. A process chooses its name, and a user the names
// in a cgroup of their own, as often as they like. Each makes series of its own, which cost
// Prometheus memory also when they are gone. So each user has a number of names, and one that is not
// used for an hour makes room for another. Users up to maxSystemUID and others have separate room:
// a user can have many subordinate uids.
//
// The zero value is ready for use. It is not safe for concurrent use.
type Names struct {
	seed  maphash.Seed
	last  names // the same names come again and again
	many  owner.Many
	until time.Time // last is as it was

	processes, units []used
}

// NamesOfUser is how many names a user may have on a port in an hour: processes with their units,
// and as many units of further processes.
const NamesOfUser = 8

const (
	usersOfPort  = 4 // who have names at a time; of users up to maxSystemUID as many
	maxSystemUID = 999
	keepName     = time.Hour
	lastIsGood   = time.Minute
)

type names struct {
	user          uint32
	process, unit string
}

// used is a name that has room.
type used struct {
	hash uint64
	user uint32
	last time.Time
}

// Add notes the name of a process and that of its unit, and returns which ones to leave out.
// An empty name is never left out.
func (n *Names) Add(now time.Time, user uint32, process, unit string) owner.Many {
	all := names{user, process, unit}
	if all == n.last && now.Before(n.until) {
		return n.many
	}
	if n.seed == (maphash.Seed{}) {
		n.seed = maphash.MakeSeed()
	}
	many := owner.Many{}
	if process != "" && !n.room(&n.processes, now, user, process+"\x00"+unit) {
		many.Process = true
	}
	if unit != "" && (many.Process || process == "") && !n.room(&n.units, now, user, unit) {
		many.Unit = true
	}
	n.last, n.many, n.until = all, many, now.Add(lastIsGood)
	return many
}

// room reports whether a name is among the used ones, or can be.
func (n *Names) room(all *[]used, now time.Time, user uint32, name string) bool {
	hash := maphash.String(n.seed, name)
	*all = slices.DeleteFunc(*all, func(u used) bool { return now.Sub(u.last) > keepName })
	same, alike := 0, 0 // names of the user, and of all who share the room
	for i := range *all {
		u := &(*all)[i]
		if u.hash == hash {
			u.last = now
			return true
		}
		if u.user == user {
			same++
		}
		if (u.user <= maxSystemUID) == (user <= maxSystemUID) {
			alike++
		}
	}
	if same >= NamesOfUser || alike >= usersOfPort*NamesOfUser {
		return false
	}
	*all = append(*all, used{hash, user, now})
	return true
}
