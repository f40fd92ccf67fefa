package netlinkdiag_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"sockstate_exporter/netlinkdiag"
	"sockstate_exporter/netlinkdiag/diagtest"
)

// Which sockets hold port 4840, and for how long at most.
func ExampleConn_Dump() { //nolint:testableexamples // what is on the port depends on the host
	c, err := netlinkdiag.Dial(nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()

	var last time.Duration
	for s, err := range c.Dump(context.Background(), netlinkdiag.Request{
		States: netlinkdiag.States(netlinkdiag.StateTimeWait),
		Ports:  netlinkdiag.PortFilter{Local: []netlinkdiag.PortRange{netlinkdiag.Port(4840)}},
	}) {
		if errors.Is(err, netlinkdiag.ErrRestarted) {
			last = 0
			continue
		}
		if err != nil {
			fmt.Println(err)
			return
		}
		last = max(last, s.Expires)
	}
	fmt.Println("port 4840 is free of TIME_WAIT in", last)
}

// A consumer that adds up sockets resets its sum at ErrRestarted.
func ExampleConn_Dump_restarted() {
	socket := func(state netlinkdiag.State) netlinkdiag.Socket {
		return netlinkdiag.Socket{
			Family: netlinkdiag.FamilyIPv4,
			State:  state,
			Local:  netip.MustParseAddrPort("192.0.2.1:4840"),
			Remote: netip.MustParseAddrPort("192.0.2.2:50000"),
		}
	}
	attempt := 0
	k := &diagtest.Kernel{Answer: func(req diagtest.Request) []diagtest.Datagram {
		attempt++
		if attempt > 1 {
			return diagtest.Dump(req, []netlinkdiag.Socket{socket(netlinkdiag.StateTimeWait)})
		}
		return []diagtest.Datagram{
			{Data: diagtest.Socket(req, socket(netlinkdiag.StateEstablished))},
			{Data: diagtest.Interrupted(diagtest.Done(req.Sequence, 0))},
		}
	}}
	c, err := netlinkdiag.Dial(&netlinkdiag.Config{Open: k.Open})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()

	count := make(map[netlinkdiag.State]int)
	for s, err := range c.Dump(context.Background(), netlinkdiag.Request{}) {
		switch {
		case errors.Is(err, netlinkdiag.ErrRestarted):
			clear(count)
		case err != nil:
			fmt.Println(err)
			return
		default:
			count[s.State]++
		}
	}
	fmt.Println(count)
	// Output: map[time_wait:1]
}

// The error says which module the kernel lacks.
func ExampleModuleError() {
	k := &diagtest.Kernel{Answer: func(req diagtest.Request) []diagtest.Datagram {
		return []diagtest.Datagram{{Data: diagtest.Error(req.Sequence, 2)}} // ENOENT
	}}
	c, err := netlinkdiag.Dial(&netlinkdiag.Config{Open: k.Open})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()

	for _, err := range c.Dump(context.Background(), netlinkdiag.Request{Protocol: netlinkdiag.ProtocolUDP}) {
		var missing *netlinkdiag.ModuleError
		if errors.As(err, &missing) {
			fmt.Println("modprobe", missing.Module)
		}
	}
	// Output: modprobe udp_diag
}
