package timewait

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"testing"

	"sockstate_exporter/internal/kerneltest"
)

// Options say which sockets to make.
type Options struct {
	// Count is the number of sockets, over all ports.
	Count int

	// Ports are the local ports. Each gets an equal share. Ignored when there
	// are Listeners.
	Ports []uint16

	// Addr is the local address; default 127.0.0.1. Ignored when there are
	// Listeners.
	Addr netip.Addr

	// Options are the flags of the sockets. Ignored when there are Listeners:
	// a TIME_WAIT socket inherits the flags of its listener.
	Options kerneltest.Options

	// Listeners are what the clients connect to, instead of listeners on Ports
	// that close again. Their accept queues must be empty.
	Listeners []*kerneltest.Listener

	// Client is the first remote address. The default is ::1 where the first
	// listener is bound to an IPv6 address, `::` included, else 127.1.0.1. An
	// IPv4 client of a dual-stack listener makes v4-mapped sockets.
	//
	// When the ports of an IPv4 address are used up, the next address follows.
	// An IPv6 address has no successor: it is good for 64,512 sockets on each
	// local port, less the client ports that are in use.
	//
	// Calls for the same local address and port need different clients: a
	// connection takes over the TIME_WAIT socket with its pair of addresses.
	Client netip.Addr
}

// MustMake is [Make] for a test, which fails when the sockets cannot be made.
// The test is skipped where the host refuses what that needs.
func MustMake(t testing.TB, ns *kerneltest.NetNS, o Options) {
	t.Helper()
	if err := Make(ns, o); err != nil {
		kerneltest.SkipOrFatal(t, err)
	}
}

// Make makes the sockets. When it returns without an error there are exactly
// [Options.Count] more of them, all in TIME_WAIT, and nothing is left of their
// clients. Above 50,000 it takes the number from /proc/net/sockstat, which
// does not tell an orphan in FIN_WAIT2 from TIME_WAIT, and is exact only where
// the namespace had no TIME_WAIT sockets before.
func Make(ns *kerneltest.NetNS, o Options) error {
	if err := makeSockets(ns, o); err != nil {
		return fmt.Errorf("make %d time_wait sockets: %w", o.Count, err)
	}
	return nil
}

func makeSockets(ns *kerneltest.NetNS, o Options) (err error) {
	if len(o.Listeners) == 0 {
		defer func() {
			for _, l := range o.Listeners {
				_ = l.Close()
			}
		}()
		if o.Listeners, err = openListeners(ns, o); err != nil {
			return err
		}
	}
	if len(o.Listeners) == 0 {
		return errors.New("no port")
	}

	before, err := ns.TimeWaitCount()
	if err != nil {
		return err
	}
	if err := raiseLimit(ns, before+o.Count); err != nil {
		return err
	}
	restore, err := ignoreResets(ns)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, restore()) }()
	return newMaker(ns, o, before).run()
}

// openListeners opens a listener on each of the ports, up to the first error.
func openListeners(ns *kerneltest.NetNS, o Options) (opened []*kerneltest.Listener, err error) {
	if !o.Addr.IsValid() {
		o.Addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	for _, port := range o.Ports {
		l, err := ns.OpenListener(netip.AddrPortFrom(o.Addr, port), o.Options)
		if err != nil {
			return opened, err
		}
		opened = append(opened, l)
	}
	return opened, nil
}

// raiseLimit makes room for that many sockets.
func raiseLimit(ns *kerneltest.NetNS, count int) error {
	const name = "net.ipv4.tcp_max_tw_buckets"
	value, err := ns.GetSysctl(name)
	if err != nil {
		return err
	}
	limit, err := strconv.Atoi(value)
	if err != nil {
		return fmt.Errorf("sysctl %s: %w", name, err)
	}
	if limit > count {
		return nil
	}
	return ns.SetSysctl(name, strconv.Itoa(count+1))
}

// ignoreResets keeps resets from ending TIME_WAIT sockets until restore. With
// several CPUs a client's delayed ACK can arrive after its FIN. TIME_WAIT
// answers it (tcp_timewait_state_process), and the client, gone by then, resets.
func ignoreResets(ns *kerneltest.NetNS) (restore func() error, err error) {
	const name = "net.ipv4.tcp_rfc1337"
	value, err := ns.GetSysctl(name)
	if err != nil {
		return nil, err
	}
	if err := ns.SetSysctl(name, "1"); err != nil {
		return nil, err
	}
	return func() error { return ns.SetSysctl(name, value) }, nil
}
