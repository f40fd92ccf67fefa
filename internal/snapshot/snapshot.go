package snapshot

import (
	"errors"
	"iter"
	"reflect"
	"time"

	"sockstate_exporter/internal/facts"
	"sockstate_exporter/internal/failures"
	"sockstate_exporter/internal/netns"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/seen"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/split"
	"sockstate_exporter/internal/stack"
	"sockstate_exporter/internal/udp"
	"sockstate_exporter/internal/unixstate"
	"sockstate_exporter/internal/verdict"
	"sockstate_exporter/internal/watch"
)

// ErrOff is the error of a part whose source is switched off.
var ErrOff = probe.ErrOff

// A Snapshot is the state of a host's sockets. Nobody changes it once it is returned, so it
// may be kept and read from any goroutine.
type Snapshot struct {
	// Namespace is the exporter's own network namespace.
	Namespace

	// Others are the further network namespaces that are watched, by name.
	Others []Namespace

	// Missed are namespaces that were watched lately and could not be found now: only Name and Inode
	// are set. Failed calls in them are counted under their names until they are given up.
	Missed []Namespace

	// Discovery says how the others were found. It is off where the exporter looks for none.
	Discovery Part[Discovery]

	// Binds has the calls of bind(), listen() and connect() that failed on this host.
	Binds Part[failures.Binds]
	Unix  unixstate.State // of Unix sockets: internal/sources sets it
}

// Discovery counts what is not in Others.
type Discovery struct {
	Dropped    int // namespaces that are not watched because there are too many
	Unreadable int // processes whose namespace the exporter may not see
}

// Namespaces returns all of them, the exporter's own first.
func (s *Snapshot) Namespaces() iter.Seq[*Namespace] {
	return func(yield func(*Namespace) bool) {
		more := yield(&s.Namespace)
		for i := 0; more && i < len(s.Others); i++ {
			more = yield(&s.Others[i])
		}
	}
}

// A Namespace is the state of one network namespace.
type Namespace struct {
	// Name may contain any bytes, and no two namespaces have the same one. The exporter's own has
	// none. No other namespace has the same Inode while this one exists.
	Name  string
	Inode uint32

	// Container is the one that gave the namespace its name. It is zero where there is none.
	Container sock.Container

	// Watch is the set of watched ports. It is there even when it could not be
	// brought up to date; then its error says why.
	Watch Part[watch.Set]

	// LocalPorts is net.ipv4.ip_local_port_range; empty: not known.
	LocalPorts sock.PortRange

	// Listeners are the listening sockets on watched ports, in groups, sorted by port, family,
	// address and device. They are there also where the part is off. GroupsDropped counts, by
	// port, the groups that are left out because the port has too many: any user can make as
	// many as they like. Where there are too many listeners to know them all, each of those left
	// out counts.
	Listeners     Part[[]ports.Group]
	GroupsDropped map[uint16]int

	// TCP has the sockets of each watched port: TCP.Data[i] is about Watch.Data.Ports[i].
	TCP Part[[]ports.PortSockets]

	// Remote has the sockets to each watched remote port, by number.
	Remote Part[[]ports.RemotePort]

	// Ephemeral has the local ports in use for the busiest destinations.
	Ephemeral Part[ports.Ephemeral]

	// UDP has the sockets of watched UDP ports. The set of ports is there even when Err is not nil.
	UDP Part[ports.UDP]

	// UDPPorts are the sockets of these ports as bind() sees them: UDPPorts.Data[i] is about
	// UDP.Data.Watch.Ports[i].
	UDPPorts Part[[]udp.Port]

	// Reuse has the error and the duration of reading the reuse flags. The flags are in Listeners. Its
	// data are the ports that an outgoing connection can take while nothing listens, although a
	// program has named them, sorted.
	Reuse Part[[]uint16]

	// Verdicts say whether a bind would work: Verdicts.Data[i] is about Watch.Data.Ports[i].
	Verdicts Part[[]verdict.Port]

	// Open are the sockets in the way of servers that are not there, by port, and who has them. Only
	// [Taker.TakeWithHolders] asks for them.
	Open map[uint16][]facts.Open

	// Split are the ports whose IPv4 and IPv6 were in different hands, or one of them missing, at some
	// time since they are watched. SplitUDP are the UDP ports.
	Split, SplitUDP []split.Port

	// Stack has the namespace's counters and limits. What could be read is there also where Err
	// is not nil.
	Stack Part[stack.Stats]

	// Seen is what was seen on the watched ports, in this snapshot or before.
	Seen seen.Namespace
}

// OtherNetns is the label of all network namespaces that are not watched.
const OtherNetns = netns.OtherLabel

// Label is the name of the namespace as people see it.
func (n *Namespace) Label() string { return netns.Label(n.Name, n.Inode) }

// A Part is the answer of one source.
type Part[T any] struct {
	Data     T
	Err      error         // nil where Data is whole
	Duration time.Duration // that the source took
}

// Off says that the source was not asked because it is switched off.
func (p Part[T]) Off() bool { return errors.Is(p.Err, ErrOff) }

func (p *Part[T]) err() *error { return &p.Err }

// partErrors returns the errors of all fields of a struct that are Parts.
func partErrors[T any](of *T) iter.Seq[*error] {
	return func(yield func(*error) bool) {
		fields := reflect.ValueOf(of).Elem()
		for i := range fields.NumField() {
			if !fields.Type().Field(i).IsExported() {
				continue
			}
			part, ok := fields.Field(i).Addr().Interface().(interface{ err() *error })
			if ok && !yield(part.err()) {
				return
			}
		}
	}
}

// errs returns the errors of all parts.
func (s *Snapshot) errs() iter.Seq[*error] {
	return func(yield func(*error) bool) {
		for ns := range s.Namespaces() {
			for err := range partErrors(ns) {
				if !yield(err) {
					return
				}
			}
		}
		for err := range partErrors(s) {
			if !yield(err) {
				return
			}
		}
	}
}
