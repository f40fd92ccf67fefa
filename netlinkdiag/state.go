package netlinkdiag

import (
	"strconv"
	"strings"
)

// A State is a TCP state, numbered as in include/net/tcp_states.h.
type State uint8

// The states. The constants have the kernel's names. String returns the names of
// node_exporter's tcpstat collector.
const (
	StateEstablished State = 1
	StateSynSent     State = 2
	StateSynRecv     State = 3
	StateFinWait1    State = 4
	StateFinWait2    State = 5
	StateTimeWait    State = 6
	StateClose       State = 7
	StateCloseWait   State = 8
	StateLastAck     State = 9
	StateListen      State = 10
	StateClosing     State = 11

	// StateBoundInactive is for a StateSet only. It asks for sockets that are bound,
	// and neither listen nor connect. A Socket has StateClose then. Linux 6.8 and
	// later; older kernels report no such socket.
	StateBoundInactive State = 13
)

// NumStates is one more than the highest state that a Socket can have.
const NumStates = 12

var stateNames = [...]string{
	StateEstablished:   "established",
	StateSynSent:       "syn_sent",
	StateSynRecv:       "syn_recv",
	StateFinWait1:      "fin_wait1",
	StateFinWait2:      "fin_wait2",
	StateTimeWait:      "time_wait",
	StateClose:         "close",
	StateCloseWait:     "close_wait",
	StateLastAck:       "last_ack",
	StateListen:        "listen",
	StateClosing:       "closing",
	StateBoundInactive: "bound_inactive",
}

func (s State) String() string {
	if int(s) < len(stateNames) && stateNames[s] != "" {
		return stateNames[s]
	}
	return "state(" + itoa(s) + ")"
}

// A StateSet is a set of states (idiag_states). In a Request the zero set means all
// states.
type StateSet uint32

// AllStates has every state, also StateBoundInactive.
const AllStates StateSet = 1<<NumStates - 2 | 1<<StateBoundInactive

// States returns the set of the given states.
func States(states ...State) StateSet {
	var set StateSet
	for _, s := range states {
		set |= 1 << s
	}
	return set
}

// Without returns the set without the given states.
func (set StateSet) Without(states ...State) StateSet { return set &^ States(states...) }

// Has says whether the state is in the set.
func (set StateSet) Has(s State) bool { return set&(1<<s) != 0 }

func (set StateSet) String() string {
	var names []string
	for s := State(0); s < 32; s++ {
		if set.Has(s) {
			names = append(names, s.String())
		}
	}
	return strings.Join(names, "|")
}

func itoa[T ~uint8](v T) string { return strconv.Itoa(int(v)) }
