package unixsock

import (
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/netlinkdiag"
)

// A Socket is one that matters for a Name.
type Socket struct {
	netlinkdiag.UnixSocket

	Netns string      // name of its network namespace; empty: the own one
	Owner owner.Owner // as far as it is known

	// There is what the socket's own name leads to for its owner: in its root directory, and for a
	// relative name from where it is now. Its Kind is FileUnknown where the owner may not be
	// looked at.
	There File
}

// Bound says whether bind(2) gave the socket its name. A connection that was accepted has the name of
// its listener, and does not count: with the listener closed, nobody is reached there.
func Bound(s *netlinkdiag.UnixSocket) bool {
	if s.Name == "" && !s.HasFile {
		return false
	}
	// connect() to a datagram socket makes it ESTABLISHED, too (unix_dgram_connect since Linux 5.15).
	return s.Type == netlinkdiag.UnixDatagram || s.State != netlinkdiag.StateEstablished
}

// Serves says whether clients can reach the socket by its name: it listens, or it takes datagrams.
func (s *Socket) Serves() bool {
	return s.State == netlinkdiag.StateListen || s.Type == netlinkdiag.UnixDatagram
}

// reached says whether the name leads to the socket for its owner.
func (s *Socket) reached() bool { return s.There.Is(&s.UnixSocket) }

// A State is what a Name is for a bind.
type State uint8

// The states. bind(2) works in the first one only.
const (
	Free State = iota
	InUse
	Stale       // a socket's file, and no socket
	Occupied    // a file that is no socket
	NoDirectory // the directory is missing
	Denied      // the directory may not be written to
	Unknown
)

// A Try is what connect(2) has answered.
type Try uint8

// The answers.
const (
	NotTried  Try = iota
	Refused       // ECONNREFUSED: nobody listens
	Answered      // somebody listens, or has a socket of another type there
	TryFailed     // anything else
)

// Seen is what was seen of a Name.
type Seen struct {
	Name Name
	File File // of a path
	// Sockets are those that have the file, or the name: at least all that Bound holds for.
	Sockets []Socket
	// Lack says what could not be looked at, so that there may be more sockets; nil: they are all.
	Lack error
	Try  Try
	// Left is who had the socket of a file that nobody has now, as far as it is known.
	Left owner.Owner
}

// A Verdict says what a Name is.
type Verdict struct {
	Seen
	State State

	Holders []Socket // those that clients reach, or that have the abstract name
	// CutOff serve the name, and no client reaches them: the file is another one's, or gone.
	CutOff []Socket
	// Unclear serve the name, and have another file. They may belong to another mount namespace: their
	// owners could not be looked at.
	Unclear []Socket
}

// Judge says what a Name is.
func Judge(seen Seen) Verdict {
	v := Verdict{Seen: seen}
	for i := range seen.Sockets {
		s := &seen.Sockets[i]
		switch {
		case !Bound(&s.UnixSocket):
		case seen.Name.Abstract || seen.File.Is(&s.UnixSocket):
			v.Holders = append(v.Holders, *s)
		case !s.Serves() || s.reached():
		case s.There.Kind == FileUnknown:
			v.Unclear = append(v.Unclear, *s)
		default:
			v.CutOff = append(v.CutOff, *s)
		}
	}
	v.State = v.state()
	return v
}

func (v *Verdict) state() State {
	switch {
	case len(v.Holders) > 0:
		return InUse
	case v.Name.Abstract && v.Lack != nil:
		return Unknown
	case v.Name.Abstract:
		return Free
	}
	switch v.File.Kind {
	case FileSocket:
		if v.Try == Answered {
			return InUse
		}
		return Stale
	case FileOther:
		return Occupied
	case FileAbsent:
		return Free
	case DirMissing:
		return NoDirectory
	case DirDenied:
		return Denied
	default:
		return Unknown
	}
}

// Certain says whether a Stale file is stale for sure: all sockets were seen, or a client was refused.
func (v *Verdict) Certain() bool { return v.Lack == nil || v.Try == Refused }
