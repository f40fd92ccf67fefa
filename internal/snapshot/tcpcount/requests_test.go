package tcpcount

import (
	"testing"

	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/netlinkdiag"
	"sockstate_exporter/netlinkdiag/diagtest"
)

func TestRequestsWithoutAListener(t *testing.T) {
	set := watchedSet(t, 80, 81)
	both := []ports.Listener{listener(80, 1), listener(80, 2), listener(81, 3)}
	var r Requests
	for n, step := range []struct {
		listeners []ports.Listener
		states    []sock.State // of connections that are counted then
		want      bool
	}{
		{both, nil, false},
		{both, nil, false},
		{both[1:], nil, true}, // one has gone
		{both[1:], []sock.State{netlinkdiag.StateEstablished}, false},
		{both, []sock.State{netlinkdiag.StateSynRecv}, false}, // its listener counts it
		{both, nil, true}, // there were some
		{both, nil, false},
		{both[:2], nil, true}, // nobody listens on 81
		{both[:2], nil, true},
		{both, nil, false},
		{append(both, listener(443, 4)), nil, false}, // a port that is not watched
	} {
		if got := r.MayBeUnseen(set, step.listeners); got != step.want {
			t.Errorf("step %d: some may be unseen: %t, want %t", n, got, step.want)
		}
		c := ports.NewCounter(set, 0)
		for _, state := range step.states {
			s := diagtest.InState(state, "127.0.0.1:80", "127.0.0.1:4000")
			c.Add(&s)
		}
		r.Seen(c)
	}
}

// A socket whose connection was reset keeps its peer, if its program has named its port.
func TestResetConnectionHasNoDestination(t *testing.T) {
	c := newTestCount(watchedSet(t, 80), false, netlinkdiag.Port(4000))
	s := diagtest.InState(netlinkdiag.StateClose, "127.0.0.1:4000", "127.0.0.1:443")
	c.Add(&s)
	if got := c.Clients.Ephemeral(); len(got.IPv4) > 0 {
		t.Errorf("local ports in use: %v, want none", got.IPv4)
	}
}

func listener(port uint16, cookie uint64) ports.Listener {
	return ports.Listener{GroupKey: ports.GroupKey{Port: port}, Cookie: cookie}
}
