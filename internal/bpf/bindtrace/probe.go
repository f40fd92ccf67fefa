//go:build linux

package bindtrace

import (
	"crypto/rand"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// A probe is a bind that must fail, and that the programs tell from others by
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

// bind binds an IPv4 socket to an IPv6 address, which __inet_bind refuses
// whatever the namespace looks like.
func (p *probe) bind() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open socket to probe with: %w", err)
	}
	defer unix.Close(fd)
	err = unix.Bind(fd, &unix.SockaddrInet6{Addr: p.addr})
	if !errors.Is(err, unix.EAFNOSUPPORT) {
		return fmt.Errorf("probe bind: got %w, want %w", err, unix.EAFNOSUPPORT)
	}
	return nil
}

// proven fails unless the attached programs see the probe. One may be missed:
// see Exactness.
func (t *Tracer) proven(p *probe) error {
	for range 5 {
		if err := p.bind(); err != nil {
			return err
		}
		var seen uint64
		if err := t.objects.ProbesSeen.Get(&seen); err != nil {
			return fmt.Errorf("read probes seen: %w", err)
		}
		if seen > 0 {
			return nil
		}
	}
	return errNothingSeen
}
