package kerneltest

import "strconv"

// State is a TCP state, numbered as in include/net/tcp_states.h.
type State uint8

// The TCP states. A socket that is bound, and neither listens nor is
// connected, is in StateClose.
const (
	StateEstablished State = iota + 1
	StateSynSent
	StateSynRecv
	StateFinWait1
	StateFinWait2
	StateTimeWait
	StateClose
	StateCloseWait
	StateLastAck
	StateListen
	StateClosing
)

// States returns all states, by number.
func States() []State {
	var all []State
	for s := StateEstablished; s <= StateClosing; s++ {
		all = append(all, s)
	}
	return all
}

// String returns the name of the state as node_exporter and the metrics of
// this project write it.
func (s State) String() string {
	names := [...]string{
		StateEstablished: "established",
		StateSynSent:     "syn_sent",
		StateSynRecv:     "syn_recv",
		StateFinWait1:    "fin_wait1",
		StateFinWait2:    "fin_wait2",
		StateTimeWait:    "time_wait",
		StateClose:       "close",
		StateCloseWait:   "close_wait",
		StateLastAck:     "last_ack",
		StateListen:      "listen",
		StateClosing:     "closing",
	}
	if s == 0 || int(s) >= len(names) {
		return "state_" + strconv.Itoa(int(s))
	}
	return names[s]
}
