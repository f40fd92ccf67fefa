//go:build linux

package bindtrace

import (
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// A probe is a call that must fail, and that the programs tell from others by
// its address, so that they do not count it.
type probe struct {
	addr [16]byte
}

func newProbe() (*probe, error) {
	p := new(probe)
	if _, err := rand.Read(p.addr[:]); err != nil {
		return nil, fmt.Errorf("choose address to probe with: %w", err)
	}
	return p, nil
}

// call gives an IPv4 socket an IPv6 address, which __inet_bind and tcp_v4_connect
// refuse whatever the namespace looks like.
func (p *probe) call(name string, call func(fd int, addr unix.Sockaddr) error) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open socket to probe with: %w", err)
	}
	defer unix.Close(fd)
	err = call(fd, &unix.SockaddrInet6{Addr: p.addr})
	if !errors.Is(err, unix.EAFNOSUPPORT) {
		return fmt.Errorf("probe %s: got %w, want %w", name, err, unix.EAFNOSUPPORT)
	}
	return nil
}

// proven fails unless the attached programs see the probes.
func (t *Tracer) proven(p *probe, connects bool) error {
	err := seen(t.objects.ProbesSeen, func() error { return p.call("bind", unix.Bind) })
	if err != nil || !connects {
		return err
	}
	return seen(t.objects.ConnectProbesSeen, func() error { return p.call("connect", unix.Connect) })
}

// seen fails unless the programs see a probe. One may be missed: see Exactness.
func seen(count *ebpf.Variable, probe func() error) error {
	for range 5 {
		if err := probe(); err != nil {
			return err
		}
		var seen uint64
		if err := count.Get(&seen); err != nil {
			return fmt.Errorf("read probes seen: %w", err)
		}
		if seen > 0 {
			return nil
		}
	}
	return errNothingSeen
}
