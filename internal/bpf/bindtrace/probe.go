//go:build linux

package bindtrace

import (
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// A probe makes calls that must fail. The programs recognise them by the address and do not count
// them.
type probe struct {
	addr [16]byte
}

func newProbe() (*probe, error) {
	p := new(probe)
	if _, err := rand.Read(p.addr[:]); err != nil {
		return nil, fmt.Errorf("choose address of probe: %w", err)
	}
	return p, nil
}

// call uses an IPv6 address on an IPv4 socket, which __inet_bind and tcp_v4_connect refuse in every
// network namespace.
func (p *probe) call(name string, call func(fd int, addr unix.Sockaddr) error) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open socket of probe: %w", err)
	}
	defer unix.Close(fd)
	err = call(fd, &unix.SockaddrInet6{Addr: p.addr})
	if !errors.Is(err, unix.EAFNOSUPPORT) {
		return fmt.Errorf("probe %s: got %w, want %w", name, err, unix.EAFNOSUPPORT)
	}
	return nil
}

// test returns an error unless the attached programs see the probes.
func (t *Tracer) test(p *probe, connects bool) error {
	err := seen(t.objects.ProbesSeen, func() error { return p.call("bind", unix.Bind) })
	if err != nil || !connects {
		return err
	}
	return seen(t.objects.ConnectProbesSeen, func() error { return p.call("connect", unix.Connect) })
}

// seen returns an error unless the programs see a probe. They may miss one: see Exactness in the
// package documentation.
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
