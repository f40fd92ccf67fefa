//go:build linux

package bindtrace

import (
	"errors"
	"maps"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/sock"
)

// rangeCase is a range of ports that a socket has by IP_LOCAL_PORT_RANGE, in the namespace of
// newCramped.
type rangeCase struct {
	name        string
	first, last uint16
	ports       int  // that such sockets can have
	own         bool // others can have more
}

func rangeCases() []rangeCase {
	const first, last = 40000, 40000 + ephemeral - 1
	return []rangeCase{
		{"one port", first + 1, first + 1, 1, true},
		{"without the first ports", first + 2, last, 2, true},
		{"only from a port on", last, 0, 1, true},
		{"only up to a port", 0, first + 1, 2, true},
		{"beyond the last port", last, last + 100, 1, true},
		{"all ports", first, last, ephemeral, false},
		{"more than all ports", first - 100, last + 100, ephemeral, false},
		{"none of the ports", last + 100, last + 200, ephemeral, false}, // the kernel ignores it
	}
}

// openRanged makes a socket with the range.
func (tg target) openRanged(t *testing.T, c rangeCase) int {
	t.Helper()
	fd := tg.open(t)
	if err := setRange(fd, c); err != nil {
		t.Fatal(err)
	}
	return fd
}

func setRange(fd int, c rangeCase) error {
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_LOCAL_PORT_RANGE, int(c.first)|int(c.last)<<16)
}

// rangedTargets are those that can have a range: of TCP and UDP from Linux 6.3 on, and of MPTCP where
// its sockets take the option.
func rangedTargets(t *testing.T, ns *kerneltest.NetNS) []target {
	t.Helper()
	var with []target
	for _, tg := range targets(t, ns) {
		err := setRange(tg.open(t), rangeCases()[0])
		switch {
		case err == nil:
			with = append(with, tg)
		case !errors.Is(err, unix.ENOPROTOOPT) && !errors.Is(err, unix.EOPNOTSUPP):
			t.Fatalf("set the range of %s: %v", tg.name, err)
		case tg.protocol != sock.MPTCP && kerneltest.KernelAtLeast(t, 6, 3):
			t.Fatalf("%s has no IP_LOCAL_PORT_RANGE on this kernel: %v", tg.name, err)
		}
	}
	t.Logf("%d kinds of sockets have IP_LOCAL_PORT_RANGE", len(with))
	return with
}

// eachRange runs use with a socket of each range and kind, until the range has no port left, and once
// more. It wants that failure to count as want says, and returns the tracer's events to check.
func eachRange(t *testing.T, use func(t *testing.T, tg target, fd int) error,
	want func(tg target, c rangeCase, netns uint32) Key, check func(t *testing.T, tr *Tracer, netns uint32, c rangeCase)) {
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		requireConnects(t, tr)
		for _, tg := range rangedTargets(t, kerneltest.New(t)) {
			for _, c := range rangeCases() {
				t.Run(tg.name+"/"+c.name, func(t *testing.T) {
					ns := newCramped(t)
					watchOnly(t, tr, ns)
					netns := uint32(ns.Inode())
					before := countsOf(t, tr, netns)
					key := want(tg, c, netns)
					ns.Do(t, func() {
						tg.listen(t)
						for range c.ports {
							if err := use(t, tg, tg.openRanged(t, c)); err != nil {
								t.Fatalf("no port, though one is left: %v", err)
							}
						}
						if err := use(t, tg, tg.openRanged(t, c)); !errors.Is(err, key.Errno) {
							t.Fatalf("without a port left: want %v, got %v", key.Errno, err)
						}
					})
					if got := grown(before, countsOf(t, tr, netns)); !maps.Equal(got, map[Key]uint64{key: 1}) {
						t.Errorf("counted %+v, want 1 of %+v", got, key)
					}
					check(t, tr, netns, c)
				})
			}
		}
	})
}

// A socket whose own range is used up says nothing about the ports of the host. Where its range is
// all that the host has, it does.
func TestBindWithoutAPortLeftOfItsOwnRangeCountsUnderOtherPorts(t *testing.T) {
	eachRange(t,
		func(_ *testing.T, tg target, fd int) error { return bindRaw(fd, sockaddrOf(tg.local, 0)) },
		func(tg target, c rangeCase, netns uint32) Key {
			return Key{Netns: netns, OtherPort: c.own, Family: tg.family, Protocol: tg.protocol, Errno: unix.EADDRINUSE}
		},
		func(t *testing.T, tr *Tracer, netns uint32, c rangeCase) {
			t.Helper()
			if e := nextEvent(t, tr, netns); e.OwnRange != c.own || !e.PortKnown || e.Port != 0 {
				t.Errorf("event %+v: own range %v, want %v, and port 0", e, e.OwnRange, c.own)
			}
		})
}

func TestConnectWithoutAPortLeftOfItsOwnRangeIsNoLackOfPorts(t *testing.T) {
	eachRange(t,
		func(_ *testing.T, tg target, fd int) error { return connectRaw(fd, sockaddrOf(tg.local, testPort)) },
		func(tg target, c rangeCase, netns uint32) Key {
			key := tg.connectKey(netns, tg.noPort())
			key.OtherPort = c.own
			return key
		},
		func(t *testing.T, tr *Tracer, netns uint32, c rangeCase) {
			t.Helper()
			if e := nextEvent(t, tr, netns); e.OwnRange != c.own || e.Op != OpConnect || e.Port != testPort {
				t.Errorf("event %+v: own range %v, want %v, and the destination", e, e.OwnRange, c.own)
			}
		})
}

// Another error of a bind to port 0 has nothing to do with the range.
func TestOtherErrorsOfASocketWithItsOwnRangeCountUnderPortZero(t *testing.T) {
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		ns := newCramped(t)
		with := rangedTargets(t, ns)
		if len(with) == 0 {
			return
		}
		watchOnly(t, tr, ns)
		netns := uint32(ns.Inode())
		before := countsOf(t, tr, netns)
		tg := with[0]
		ns.Do(t, func() {
			if err := bindRaw(tg.openRanged(t, rangeCases()[0]), sockaddrOf(tg.elsewhere, 0)); !errors.Is(err, unix.EADDRNOTAVAIL) {
				t.Fatalf("bind: want EADDRNOTAVAIL, got %v", err)
			}
		})
		want := Key{Netns: netns, Family: tg.family, Protocol: tg.protocol, Errno: unix.EADDRNOTAVAIL}
		if got := grown(before, countsOf(t, tr, netns)); !maps.Equal(got, map[Key]uint64{want: 1}) {
			t.Errorf("counted %+v, want 1 of %+v", got, want)
		}
	})
}
