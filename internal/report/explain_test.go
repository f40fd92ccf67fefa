package report

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/failures"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/netlinkdiag"
)

// in makes sockets in a state.
func in(state netlinkdiag.State, n uint64, reuseAddr bindrule.Flag) bindrule.Socket {
	return bindrule.Socket{State: state, Count: n, ReuseAddr: reuseAddr}
}

func waiting(n uint64, reuseAddr bindrule.Flag, left time.Duration) bindrule.Socket {
	s := in(netlinkdiag.StateTimeWait, n, reuseAddr)
	s.Kind, s.Expires = sock.KindTimeWait, left
	return s
}

func at(s bindrule.Socket, addr netip.Addr, uid uint32) bindrule.Socket {
	s.Addr, s.UID = addr, bindrule.UIDOf(uid)
	return s
}

// conflict is a failed bind of opcua-server to port 4840.
func conflict(r bindrule.Request, blockers ...bindrule.Socket) failures.Conflict {
	if !r.Addr.IsValid() {
		r.Addr = any4
	}
	return failures.Conflict{Port: 4840, Process: "opcua-server", PID: 4711, Request: r, Blockers: blockers}
}

const (
	no, yes, unknown = bindrule.No, bindrule.Yes, bindrule.FlagUnknown

	firstRestart = "the new socket has SO_REUSEADDR, but the old ones need it too: as when a server restarts for the first time since it sets the flag"
)

func TestExplain(t *testing.T) {
	without, with := bindrule.Request{ReuseAddr: no, ReusePort: no}, bindrule.Request{ReuseAddr: yes, ReusePort: no}
	listen := in(netlinkdiag.StateListen, 1, unknown)
	bound := in(netlinkdiag.StateClose, 1, unknown)
	sharing := bindrule.Request{ReuseAddr: no, ReusePort: yes}
	shared := func(f bindrule.Flag) bindrule.Socket {
		s := at(listen, any4, 1000)
		s.ReusePort = f
		return s
	}
	for _, tt := range []struct {
		name string
		c    failures.Conflict
		want string // after the part that is the same for all
	}{
		{"the binder lacks the flag, and so did the old ones",
			conflict(without, waiting(212, no, 42_300*time.Millisecond)),
			"212 sockets in TIME_WAIT, opened without SO_REUSEADDR, the last one for 43 s; the new socket lacks SO_REUSEADDR too"},
		{"the binder alone lacks the flag",
			conflict(without, waiting(1, yes, time.Second)),
			"1 socket in TIME_WAIT, opened with SO_REUSEADDR, for 1 s; the new socket lacks SO_REUSEADDR"},
		{"the first restart after a fix",
			conflict(with, waiting(212, no, 43*time.Second)),
			"212 sockets in TIME_WAIT, opened without SO_REUSEADDR, the last one for 43 s; " + firstRestart},
		{"some with the flag and some without",
			conflict(without, waiting(1, no, time.Second), waiting(1, yes, 2*time.Second)),
			"2 sockets in TIME_WAIT, the last one for 2 s; the new socket lacks SO_REUSEADDR"},
		{"flags nobody could read",
			conflict(with, waiting(2, unknown, 2*time.Second)),
			"2 sockets in TIME_WAIT, the last one for 2 s; " + firstRestart},
		{"a listener",
			conflict(without, at(listen, any4, 1000)),
			"another socket listens on 0.0.0.0:4840 (uid 1000)"},
		{"a listener against the flag",
			conflict(with, at(listen, any6, 0)),
			"another socket listens on [::]:4840 (uid 0); SO_REUSEADDR does not help against a listener"},
		{"two listeners",
			conflict(without, at(listen, any4, 1), at(listen, any6, 1)),
			"2 other sockets listen on 0.0.0.0:4840, [::]:4840 (uid 1)"},
		{"many listeners",
			conflict(without, at(listen, netip.MustParseAddr("127.0.0.1"), 1), at(listen, netip.MustParseAddr("127.0.0.2"), 1),
				at(listen, netip.MustParseAddr("127.0.0.3"), 2), at(listen, netip.MustParseAddr("127.0.0.4"), 2)),
			"4 other sockets listen on 127.0.0.1:4840, 127.0.0.2:4840, 127.0.0.3:4840, ... (uid 1, 2)"},
		{"a listener that does not share",
			conflict(sharing, shared(no)),
			"another socket listens on 0.0.0.0:4840 (uid 1000); the new socket has SO_REUSEPORT, but the old one needs it too"},
		{"a listener of another user that shares",
			conflict(sharing, shared(yes)),
			"another socket listens on 0.0.0.0:4840 (uid 1000); SO_REUSEPORT shares a port among sockets of one user only"},
		{"a socket that is bound",
			conflict(without, at(bound, any4, 1000)),
			"another socket is bound, without listening, to 0.0.0.0:4840 (uid 1000); the new socket lacks SO_REUSEADDR"},
		{"connections",
			conflict(without, in(netlinkdiag.StateCloseWait, 2, no), in(netlinkdiag.StateEstablished, 1, no)),
			"3 connections (1 established, 2 close_wait), opened without SO_REUSEADDR; the new socket lacks SO_REUSEADDR too"},
		{"connections and TIME_WAIT",
			conflict(with, waiting(7, no, time.Minute), in(netlinkdiag.StateLastAck, 1, no)),
			"1 connection (1 last_ack), opened without SO_REUSEADDR, and 7 sockets in TIME_WAIT, opened without SO_REUSEADDR, the last one for 60 s; " + firstRestart},
		{"nothing seen", conflict(without), "what was in the way was gone when the exporter looked, or cannot be seen"},
		{"a state of the future", conflict(bindrule.Request{}, in(200, 1, no)), "1 connection (), opened without SO_REUSEADDR"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			const start = "bind to 0.0.0.0:4840 by opcua-server (pid 4711) failed: "
			if got, want := Explain(&tt.c), start+tt.want; got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

func TestExplainNamesTheHalfThatFailed(t *testing.T) {
	c := conflict(bindrule.Request{ReuseAddr: no}, waiting(3, no, 5*time.Second))
	c.OtherHalf = []netip.AddrPort{netip.AddrPortFrom(any6, 4840)}
	want := "bind to 0.0.0.0:4840 by opcua-server (pid 4711) failed: 3 sockets in TIME_WAIT, opened without SO_REUSEADDR, the last one for 5 s; " +
		"the new socket lacks SO_REUSEADDR too; only the IPv4 half failed, for IPv6 [::]:4840 listens"
	if got := Explain(&c); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}

	c = conflict(bindrule.Request{Addr: any6, ReuseAddr: no})
	c.OtherHalf = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:4840"), netip.MustParseAddrPort("192.0.2.1:4840")}
	want = "bind to [::]:4840 by opcua-server (pid 4711) failed: what was in the way was gone when the exporter looked, or cannot be seen; " +
		"only the IPv6 half failed, for IPv4 127.0.0.1:4840 and 192.0.2.1:4840 listen"
	if got := Explain(&c); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestExplainSaysWhatTheProcessBelongsTo(t *testing.T) {
	for want, by := range map[string]owner.Owner{
		"(pid 4711)":                               {},
		"(pid 4711, opcua.service)":                {Unit: "opcua.service"},
		"(pid 4711, opcua.service, container web)": {Unit: "opcua.service", Container: "web"},
		`(pid 4711, "a b\n")`:                      {Unit: "a b\n"},
	} {
		c := conflict(bindrule.Request{})
		c.Owner = by
		if got, _, _ := strings.Cut(Explain(&c), " failed: "); got != "bind to 0.0.0.0:4840 by opcua-server "+want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// Processes choose their names, but cannot add a line or a sentence to the explanation.
func TestExplainQuotesHostileNames(t *testing.T) {
	for name, want := range map[string]string{
		"":                  "a process",
		"nginx":             "nginx",
		"kworker/0:1":       "kworker/0:1",
		"nginx: worker":     `"nginx: worker"`,
		"a\nb":              `"a\nb"`,
		"\x1b[31m":          `"\x1b[31m"`,
		"\xff\xfe":          `"\xff\xfe"`,
		"\u202egnp":         `"\u202egnp"`,
		`x" (pid 1)`:        `"x\" (pid 1)"`,
		"x (pid 1) failed:": `"x (pid 1) failed:"`,
	} {
		c := conflict(bindrule.Request{})
		c.Process = name
		if got, _, _ := strings.Cut(Explain(&c), " (pid 4711) failed"); got != "bind to 0.0.0.0:4840 by "+want {
			t.Errorf("%q: got %s, want %s", name, got, want)
		}
	}
}

func TestExplainSaysWhyNothingWasSeen(t *testing.T) {
	c := conflict(bindrule.Request{})
	c.Err = errors.New("dump: \"no\nnetlink\x1b\"")
	want := `bind to 0.0.0.0:4840 by opcua-server (pid 4711) failed: what is on the port could not be seen: dump: "no\nnetlink\x1b"`
	if got := Explain(&c); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
