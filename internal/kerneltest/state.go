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
	return []State{
		StateEstablished, StateSynSent, StateSynRecv, StateFinWait1, StateFinWait2, StateTimeWait,
		StateClose, StateCloseWait, StateLastAck, StateListen, StateClosing,
	}
}

// String is the state's name as node_exporter and this project's metrics
// write it.
func (s State) String() string {
	switch s {
	case StateEstablished:
		return "established"
	case StateSynSent:
		return "syn_sent"
	case StateSynRecv:
		return "syn_recv"
	case StateFinWait1:
		return "fin_wait1"
	case StateFinWait2:
		return "fin_wait2"
	case StateTimeWait:
		return "time_wait"
	case StateClose:
		return "close"
	case StateCloseWait:
		return "close_wait"
	case StateLastAck:
		return "last_ack"
	case StateListen:
		return "listen"
	case StateClosing:
		return "closing"
	default:
		return "state_" + strconv.Itoa(int(s))
	}
}
