package owner

import "time"

// An entry is what the Finder knows about a socket.
type entry struct {
	looked bool // a scan has looked for it, and the owner has not been lost since
	found  bool
	holders
	link    string // of the owner's descriptor, in procfs
	absence Absence
	first   *process // the first owner; nil: none so far, except a service manager
	left    *Opener  // the first owner, if it does not have the socket any more

	needs   uint64    // the scan that looks for it, or a later one
	misses  int       // scans in a row that did not find an owner
	due     time.Time // when to look for it, or confirm its owner, again
	asked   time.Time // when a caller last asked about it
	checked time.Time // when its owner was last looked for or confirmed
}

// settled reports whether the owner is final. A service manager may still pass the socket on, and a server that
// seems to have inherited its socket may have been busy.
func (e *entry) settled() bool { return e.found && !e.owner.place.Manager && !e.inherited }

// shown returns the Owner. It is empty if nothing is known.
func (e *entry) shown(named namer) Owner {
	o := Owner{Absence: e.absence}
	if e.found {
		o = e.owner.shown(e.count, named)
		o.Inherited = e.inherited
	}
	o.Opener = e.left
	return o
}

// noteOpener remembers the first owner, or that it does not have the socket any more.
func (e *entry) noteOpener(ended func(identity) bool, named namer) {
	switch {
	case e.first == nil || e.found && e.owner.identity == e.first.identity:
		e.left = nil
		if e.settled() && (e.first == nil || *e.first != e.owner) { // it may have another name by now
			first := e.owner
			e.first = &first
		}
	case e.found && e.opener:
		e.left = nil
	default:
		o := e.first.shown(0, named)
		e.left = &Opener{
			Process: o.Process, Unit: o.Unit, Runtime: o.Runtime, Container: o.Container, Within: o.Within, Named: o.Named, PID: o.PID,
			Ended:       e.left != nil && e.left.Ended || ended(e.first.identity),
			SameProgram: e.found && e.owner.exe == e.first.exe && e.owner.name == e.first.name,
		}
	}
}
