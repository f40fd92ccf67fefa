package netlinkdiag_test

import (
	"errors"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/netlinkdiag"
	"sockstate_exporter/netlinkdiag/diagtest"
)

func TestInterruptedDumpBeginsAnew(t *testing.T) {
	v4 := netlinkdiag.Request{Family: ipv4}
	for _, tt := range []struct {
		name    string
		request netlinkdiag.Request
		answer  answer
		yields  []string
	}{
		{"flag on a socket", v4, script(
			say(sockets(1, 2), interrupted(sockets(3)), done(0)),
			say(sockets(4), sockets(5), done(0)),
		), []string{"1", "2", "restarted", "4", "5"}},
		{"flag on the end", v4, script(
			say(sockets(1, 2), interrupted(done(0))),
			say(sockets(4, 5), done(0)),
		), []string{"1", "2", "restarted", "4", "5"}},
		{"flag on an end with an errno", v4, script(
			say(sockets(1), interrupted(done(unix.EINTR))),
			say(sockets(4), done(0)),
		), []string{"1", "restarted", "4"}},
		{"no socket seen yet", v4, script(
			say(interrupted(sockets(1, 2)), done(0)),
			say(interrupted(done(0))),
			say(sockets(4), done(0)),
		), []string{"4"}},
		{"seen, then not seen", v4, script(
			say(sockets(1), interrupted(done(0))),
			say(interrupted(done(0))),
			say(sockets(4), interrupted(done(0))),
			say(sockets(5), done(0)),
		), []string{"1", "restarted", "4", "restarted", "5"}},
		{"nothing left", v4, script(
			say(sockets(1), interrupted(done(0))),
			say(done(0)),
		), []string{"1", "restarted"}},
		{"second family", netlinkdiag.Request{Protocol: udp}, script(
			say(sockets(1), done(0)),
			say(sockets(2), interrupted(done(0))),
			say(sockets(3), done(0)),
			say(sockets(4), done(0)),
		), []string{"1", "2", "restarted", "3", "4"}},
		{"then refused for both families", netlinkdiag.Request{}, script(
			say(sockets(1), interrupted(done(0))),
			say(refuse(unix.EOPNOTSUPP)),
			say(sockets(2), done(0)),
			say(sockets(3), done(0)),
		), []string{"1", "restarted", "2", "3"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := &diagtest.Kernel{Answer: tt.answer}
			c := dial(t, k, 0)
			got, err := events(c.Dump(noContext, tt.request))
			if err != nil || !slices.Equal(got, tt.yields) {
				t.Errorf("yielded %v, error %v; want %v", got, err, tt.yields)
			}
			if k.Live() != 1 {
				t.Errorf("%d transports are open, want 1", k.Live())
			}
		})
	}
}

// A request for both families can be two dumps. A restart begins with the first.
func TestInterruptedDumpAsksForAllFamiliesAgain(t *testing.T) {
	k := &diagtest.Kernel{Answer: script(say(sockets(1), done(0)), say(interrupted(done(0))))}
	if _, err := collect(dial(t, k, 0).Dump(noContext, netlinkdiag.Request{Protocol: udp})); err != nil {
		t.Fatal(err)
	}
	if got, want := asked(k), []string{"20 udp ipv4", "20 udp ipv6", "20 udp ipv4", "20 udp ipv6"}; !slices.Equal(got, want) {
		t.Errorf("asked for %v, want %v", got, want)
	}
}

func TestInterruptedDumpGivesUp(t *testing.T) {
	for _, tt := range []struct {
		name          string
		retries, asks int
	}{
		{"default", 0, 4},
		{"once", 1, 2},
		{"five times", 5, 6},
		{"at once", -1, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := &diagtest.Kernel{Answer: say(sockets(1), interrupted(done(0)))}
			c := dial(t, k, tt.retries)
			got, err := events(c.Dump(noContext, netlinkdiag.Request{}))
			want := slices.Repeat([]string{"1", "restarted"}, tt.asks)
			want[len(want)-1] = "error"
			if !errors.Is(err, netlinkdiag.ErrInterrupted) || !slices.Equal(got, want) {
				t.Errorf("yielded %v, error %v; want %v, ErrInterrupted", got, err, want)
			}
			if n := len(k.Requests()); n != tt.asks {
				t.Errorf("asked %d times, want %d", n, tt.asks)
			}
			requireClean(t, c, k, tt.asks+1)
		})
	}
}

// The limit of retries is for each dump, not for the Conn.
func TestEveryDumpHasItsOwnRetries(t *testing.T) {
	k := new(diagtest.Kernel)
	c := dial(t, k, 1)
	for range 5 {
		k.Answer = script(say(interrupted(done(0))), say(sockets(1), done(0)))
		if got, err := collect(c.Dump(noContext, netlinkdiag.Request{})); err != nil || len(got) != 1 {
			t.Fatalf("%d sockets, error %v; want 1", len(got), err)
		}
	}
}

// A consumer that stops at ErrRestarted gets no result, and the next dump works.
func TestConsumerMayStopAtErrRestarted(t *testing.T) {
	k := &diagtest.Kernel{Answer: say(sockets(1), interrupted(done(0)))}
	c := dial(t, k, 0)
	var last error
	for _, err := range c.Dump(noContext, netlinkdiag.Request{}) {
		if last = err; err != nil {
			break
		}
	}
	if last != netlinkdiag.ErrRestarted {
		t.Errorf("error is %v, want ErrRestarted", last)
	}
	if n := len(k.Requests()); n != 1 {
		t.Errorf("asked %d times, want 1", n)
	}
	requireClean(t, c, k, 2)
}
