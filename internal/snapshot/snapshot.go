package snapshot

import (
	"errors"
	"iter"
	"net/netip"
	"time"

	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/stack"
	"sockstate_exporter/netlinkdiag"
)

// ErrOff is the error of a part whose source is switched off.
var ErrOff = errors.New("switched off")

// A Snapshot is the state of a host's sockets. Nobody changes it once it is returned, so it
// may be kept and read from any goroutine.
type Snapshot struct {
	// Namespace is the exporter's own network namespace.
	Namespace

	// Others are the further network namespaces that are watched, by name.
	Others []Namespace

	// Discovery says how the others were found. It is off where none are looked for.
	Discovery Part[Discovery]

	// Binds has the calls of bind() and listen() that failed on this host.
	Binds Part[Binds]
}

// Discovery is what there is beside Others.
type Discovery struct {
	Dropped    int // namespaces that would be watched but for their number
	Unreadable int // processes whose namespace the exporter may not see
}

// Namespaces are all of them, the exporter's own first.
func (s *Snapshot) Namespaces() iter.Seq[*Namespace] {
	return func(yield func(*Namespace) bool) {
		if !yield(&s.Namespace) {
			return
		}
		for i := range s.Others {
			if !yield(&s.Others[i]) {
				return
			}
		}
	}
}

// A Namespace is the state of one network namespace.
type Namespace struct {
	// Name is what the namespace is called: any bytes, but no two alike. It is empty for the
	// exporter's own. Inode is its number, which no other one has meanwhile.
	Name  string
	Inode uint32

	// Watch is the set of watched ports. It is there even when it could not be
	// brought up to date; then its error says why.
	Watch Part[ports.Set]

	// Listeners are the listening sockets on watched ports, in groups, sorted by
	// port, family, address and device. GroupsDropped counts, by port, the groups that are
	// not among them for their number: any user can make as many as they like.
	Listeners     Part[[]Group]
	GroupsDropped map[uint16]int

	// TCP has the sockets of each watched port: TCP.Data[i] is Watch.Data.Ports[i].
	TCP Part[[]PortSockets]

	// Remote has the sockets to each watched remote port, by number.
	Remote Part[[]RemotePort]

	// Ephemeral has the local ports in use for the busiest destinations.
	Ephemeral Part[Ephemeral]

	// UDP has the sockets of watched UDP ports. Its set of ports is there even when Err is not nil.
	UDP Part[UDP]

	// Reuse has the reuse flags of the listeners and of the sockets behind them.
	Reuse Part[Reuse]

	// Verdicts say whether a bind would work: Verdicts.Data[i] is of Watch.Data.Ports[i].
	Verdicts Part[[]PortVerdicts]

	// Stack has the namespace's counters and limits. What of it could be had is
	// there also where Err is not nil.
	Stack Part[stack.Stats]
}

// A Part is what one source had to say.
type Part[T any] struct {
	Data     T
	Err      error         // nil where Data is whole
	Duration time.Duration // that the source took
}

// Off says that the source was not asked because it is switched off.
func (p Part[T]) Off() bool { return errors.Is(p.Err, ErrOff) }

// PortSockets are the TCP sockets whose local port is a watched one.
type PortSockets struct {
	Number uint16
	IPv4   FamilySockets // sockets of AF_INET
	IPv6   FamilySockets // sockets of AF_INET6, IPv4-mapped ones included

	// Unseen are the states that were not looked for: how many there are in them is not known.
	Unseen netlinkdiag.StateSet
}

// FamilySockets are the sockets of one port and family.
type FamilySockets struct {
	// States counts the sockets by netlinkdiag.State. Bound sockets that neither
	// listen nor connect are in StateClose.
	States [netlinkdiag.NumStates]uint64

	// TimeWaitRemaining is the time until the last socket in StateTimeWait expires.
	TimeWaitRemaining time.Duration
}

// Of is the family's half.
func (p *PortSockets) Of(f netlinkdiag.Family) *FamilySockets {
	if f == netlinkdiag.FamilyIPv6 {
		return &p.IPv6
	}
	return &p.IPv4
}

// lingers: something other than a listener is on the port.
func (p *PortSockets) lingers() bool {
	for s := range p.IPv4.States {
		if netlinkdiag.State(s) != netlinkdiag.StateListen && p.IPv4.States[s]+p.IPv6.States[s] > 0 {
			return true
		}
	}
	return false
}

// GroupKey identifies a listener group: with SO_REUSEPORT several sockets share one.
type GroupKey struct {
	Port    uint16
	Family  netlinkdiag.Family
	Address netip.Addr
	Ifindex uint32 // device that the sockets are bound to, 0 for none
}

// A Group is the listening sockets of one address, port and device.
type Group struct {
	GroupKey
	Interface string // name of the device; empty for none

	// Owner has the sockets open, as far as that is known; of several the oldest.
	Owner owner.Owner

	// V6Only is IPV6_V6ONLY of every socket of the group: IPv4 is not served here.
	V6Only bool

	Sockets    uint64  // in the group
	Queue      uint64  // connections that wait for accept(), of all sockets together
	QueueLimit uint64  // how many may wait, of all sockets together
	QueueRatio float64 // Queue over QueueLimit of the fullest socket; a limit of 0 taken as 1

	// Drops is how many connections were dropped here, by all the sockets that were ever
	// seen in the group: it never falls. DropsKnown is false where the kernel did not say.
	Drops      uint64
	DropsKnown bool
}
