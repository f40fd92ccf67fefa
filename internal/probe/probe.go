package probe

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/bindbucket"
	"sockstate_exporter/internal/bpf/sockflags"
	"sockstate_exporter/internal/bpf/udphash"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/stack"
	"sockstate_exporter/netlinkdiag"
)

// ErrOff is the error of a source that is switched off.
var ErrOff = errors.New("switched off")

// A Namespace answers what is in one network namespace. It is used by one goroutine at a time,
// except that Flags and Stack may run beside the others.
type Namespace interface {
	// Listeners calls visitor.Add for each listening TCP socket. With ports, those on other ports
	// may be left out. A dump that the kernel interrupts begins anew, after a call of Reset.
	Listeners(ctx context.Context, visitor Visitor, ports ...uint16) error

	// Sockets calls visitor.Add for each TCP socket that the request asks for. A dump that the
	// kernel interrupts begins anew, after a call of Reset.
	Sockets(ctx context.Context, req netlinkdiag.Request, visitor Visitor) error

	// Connections adds the connections whose destinations are counted, if there are few. It takes less time
	// than Sockets. With an error it has added none; ErrOff means that only Sockets shows them.
	Connections(to *ports.Clients) error

	// UDPSockets calls visitor.Add for each UDP socket, as Listeners does.
	UDPSockets(ctx context.Context, visitor Visitor) error

	// UDPPorts reads the UDP sockets on the ports, with their flags. Its error is ErrOff where they are
	// not read.
	UDPPorts(ports []uint16) (map[uint16]*udphash.Port, error)

	// Flags reads the reuse flags. Its error is ErrOff where they are not read.
	Flags(ctx context.Context, req FlagRequest) (*Flags, error)

	// Held returns the TCP sockets on a few ports, with who has them, a few hundred at most. Its error
	// is ErrOff where they are not read.
	Held(ports []uint16) ([]bindbucket.Held, error)

	// FlagScope says whose flags Flags reads.
	FlagScope() FlagScope

	// Stack reads the counters and limits. What could be read is there beside an error, which
	// is ErrOff where they are not read.
	Stack() (stack.Stats, error)

	// LocalPorts returns net.ipv4.ip_local_port_range, and an empty range where that cannot be
	// read: then Stack says why.
	LocalPorts() sock.PortRange

	// ReservedPorts returns net.ipv4.ip_local_reserved_ports.
	ReservedPorts() ([]sock.PortRange, error)

	// OnlyListeners says that the kernel counts so many TCP sockets here as there are listeners,
	// and no more. It does not count half-open sockets and sockets that are only bound. Ask it only
	// of namespaces other than the process's own.
	OnlyListeners(listeners uint64) bool

	// Devices fills in the names of the network devices with these indices. One that is gone is
	// called by its index: "if42".
	Devices(names map[uint32]string)

	// LocalAddresses returns the addresses of the network devices. Those of loopback need not be
	// among them.
	LocalAddresses() (map[netip.Addr]struct{}, error)

	// Address says why bind() may have refused an address. ifindex is that of an IPv6 link-local
	// address, or 0.
	Address(addr netip.Addr, ifindex uint32) sock.Address

	// TakenPorts looks at some of the local ports of a range. It counts those that were taken by
	// bind(), and those that connect() has chosen. Where that cannot be seen, it counts none.
	TakenPorts(of sock.PortRange) (bound, chosen int)

	// Close closes what the namespace has open. The namespace may be used again.
	Close() error
}

// A Visitor takes the sockets of a dump. The socket is valid until Add returns.
type Visitor interface {
	Reset()
	Add(s *netlinkdiag.Socket)
}

// A FlagScope says whose flags can be read.
type FlagScope uint8

// The scopes.
const (
	FlagsOff FlagScope = iota
	FlagsOfListeners
	FlagsOfAll
)

// A FlagRequest says whose flags to read.
type FlagRequest struct {
	Ports     []uint16
	Listeners []ports.Listener

	// Expected are, by port, the binds that will be asked about. Where a port has very many kinds
	// of sockets, those that these binds cannot tell apart are folded, as by bindrule.NewFolding.
	Expected map[uint16][]bindrule.Request

	// OnlyListeners skips the table of connections, which can be large. Sockets may be left out
	// then.
	OnlyListeners bool

	// Sockets is about how many there are on the ports. Few of them are read where bind() looks
	// for them, many in a walk through the table of connections.
	Sockets uint64
}

// Flags are the reuse flags of sockets.
type Flags struct {
	Listeners map[uint64]sock.ReuseFlags // by socket cookie

	// NamedPort has the listeners whose program has named the port, so far as that is known: the
	// kernel did not choose it.
	NamedPort map[uint64]bool

	// Sockets are all other sockets on the requested ports, where the scope is FlagsOfAll. Expires
	// counts from At.
	Sockets []PortSocket
	At      time.Time

	// Buckets has what the kernel remembers of the binds of a port, where that is known.
	Buckets map[uint16]bindrule.Bucket

	// Bound says that sockets that are only bound are among Sockets.
	Bound bool

	// Whole says that Sockets are all sockets on the ports, beside listeners.
	Whole bool

	// Missed counts, by port, the sockets that are not in Sockets, as far as that is known.
	Missed map[uint16]uint64
}

// A PortSocket is a number of sockets on a port that bind() cannot tell apart.
type PortSocket struct {
	Port uint16
	bindrule.Socket
}

// A FlagReader reads the flags: *sockflags.Reader.
type FlagReader interface {
	Mode() sockflags.Mode
	Read(context.Context, sockflags.Request) (*sockflags.Result, error)
}

// A BucketReader reads the sockets of a few ports: *bindbucket.Reader.
type BucketReader interface {
	Read(netns int, ports []uint16) (*bindbucket.Result, error)
	ReadBuckets(netns int, ports []uint16) (map[uint16]bindbucket.Bucket, error)
	ReadHeld(netns int, ports []uint16) (*bindbucket.Result, error)
	ReadConnections(netns int, of sock.PortRange, except []uint16) ([]bindbucket.Connection, error)
}

// A UDPReader reads the UDP sockets of ports: *udphash.Reader.
type UDPReader interface {
	Read(netns int, ports []uint16) (map[uint16]*udphash.Port, error)
}

// IsLocal returns a function that says whether an address is one of the namespace's own. Where that
// cannot be found out, all are. The namespace is asked once.
func IsLocal(ns Namespace) func(netip.Addr) bool {
	ask := sync.OnceValues(ns.LocalAddresses)
	return func(addr netip.Addr) bool {
		known, err := ask()
		_, ok := known[addr]
		return ok || err != nil
	}
}
