package verdict

import (
	"slices"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/sock"
)

// Explain returns the sockets that made a bind fail with EADDRINUSE, by what is on the port now. There
// are none if they were gone before the exporter looked, cannot be seen, or their flags are not known.
func Explain(seen *bindrule.Port, request bindrule.Request) []bindrule.Socket {
	port := *seen
	port.Bucket = bindrule.Bucket{Known: true, MappedMeetsAny: port.Bucket.MappedMeetsAny} // it did not admit the request, or bind() would have succeeded
	verdict := port.Bind(request)
	blockers := verdict.Blockers
	if len(blockers) == 0 && !port.Incomplete && alike(port.Sockets, verdict.Doubtful) {
		// One of these sockets blocked the bind, because there are no others.
		blockers = verdict.Doubtful
	}
	out := make([]bindrule.Socket, len(blockers))
	for i, b := range blockers {
		out[i] = port.Sockets[b]
	}
	return out
}

// alike says whether all these sockets listen, all are in TIME_WAIT, all are only bound, or all are
// other connections.
func alike(sockets []bindrule.Socket, which []int) bool {
	return !slices.ContainsFunc(which, func(i int) bool { return classOf(&sockets[i]) != classOf(&sockets[which[0]]) })
}

func classOf(s *bindrule.Socket) sock.State {
	switch s.State {
	case sock.StateListen, sock.StateTimeWait, sock.StateClose:
		return s.State
	default:
		return sock.StateEstablished
	}
}
