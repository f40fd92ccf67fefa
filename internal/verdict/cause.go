package verdict

import (
	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/sock"
)

// A Cause is what made a bind() fail with EADDRINUSE. Where several sockets blocked the bind it is
// the first of their causes, in the order of the constants.
type Cause uint8

// The causes.
const (
	CauseUnknown    Cause = iota // the socket was gone before the exporter looked, cannot be seen, or its flags are not known
	CauseListener                // a socket that listens
	CauseConnection              // a connection, live or closing
	CauseBound                   // a socket that is bound, and neither listens nor connects
	CauseTimeWait                // a connection in TIME_WAIT
)

// Causes returns all causes.
func Causes() []Cause {
	return []Cause{CauseListener, CauseConnection, CauseBound, CauseTimeWait, CauseUnknown}
}

func (c Cause) String() string {
	switch c {
	case CauseListener:
		return "listener"
	case CauseConnection:
		return "connection"
	case CauseBound:
		return "bound"
	case CauseTimeWait:
		return "time_wait"
	default:
		return "unknown"
	}
}

// Before says whether the cause says more than another one.
func (c Cause) Before(o Cause) bool { return c != CauseUnknown && (o == CauseUnknown || c < o) }

// CauseOf returns the cause that a blocking socket is.
func CauseOf(s *bindrule.Socket) Cause {
	switch s.State {
	case sock.StateListen:
		return CauseListener
	case sock.StateClose:
		return CauseBound
	case sock.StateTimeWait:
		return CauseTimeWait
	default: // FIN_WAIT2 of KindTimeWait too
		return CauseConnection
	}
}

// Explain returns what made a bind fail, by what is on the port now, and the sockets that blocked it.
func Explain(seen *bindrule.Port, request bindrule.Request) (Cause, []bindrule.Socket) {
	port := *seen
	port.Bucket = bindrule.Bucket{Known: true} // it did not admit the request, or bind() would have succeeded
	verdict := port.Bind(request)
	blockers := verdict.Blockers
	if len(blockers) == 0 && !port.Incomplete && alike(port.Sockets, verdict.Doubtful) {
		// One of these sockets blocked the bind, because there are no others.
		blockers = verdict.Doubtful
	}
	cause := CauseUnknown
	out := make([]bindrule.Socket, len(blockers))
	for i, b := range blockers {
		out[i] = port.Sockets[b]
		if of := CauseOf(&out[i]); of.Before(cause) {
			cause = of
		}
	}
	return cause, out
}

// alike says whether all these sockets have the same cause.
func alike(sockets []bindrule.Socket, which []int) bool {
	for _, i := range which {
		if CauseOf(&sockets[i]) != CauseOf(&sockets[which[0]]) {
			return false
		}
	}
	return true
}
