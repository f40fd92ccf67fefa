package bindrule

// A Flag is a socket option, or a condition, that may be unknown.
type Flag uint8

// The values of a Flag.
const (
	FlagUnknown Flag = iota
	No
	Yes
)

func (f Flag) String() string {
	switch f {
	case No:
		return "no"
	case Yes:
		return "yes"
	default:
		return "unknown"
	}
}

// FlagOf returns Yes for true and No for false.
func FlagOf(set bool) Flag { return is(set) }

func is(b bool) Flag {
	if b {
		return Yes
	}
	return No
}

func not(f Flag) Flag {
	switch f {
	case Yes:
		return No
	case No:
		return Yes
	default:
		return FlagUnknown
	}
}

func and(flags ...Flag) Flag {
	all := Yes
	for _, f := range flags {
		switch f {
		case No:
			return No
		case FlagUnknown:
			all = FlagUnknown
		}
	}
	return all
}

func or(a, b Flag) Flag { return not(and(not(a), not(b))) }

// A UID is a user id that may be unknown. The zero value is unknown.
type UID struct {
	ID    uint32
	Known bool
}

// UIDOf returns a UID that is known.
func UIDOf(id uint32) UID { return UID{ID: id, Known: true} }

func (u UID) equal(other UID) Flag {
	if !u.Known || !other.Known {
		return FlagUnknown
	}
	return is(u.ID == other.ID)
}
