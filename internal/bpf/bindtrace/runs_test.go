//go:build linux

package bindtrace

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
)

// A runCase is a call of which the test counts how often programs run for it.
type runCase struct {
	name string
	// want is how often, by mode: fexit, kprobe, tracepoint.
	want    [3]uint64
	noPorts bool // in a network namespace without a free port
	// call makes the call n times.
	call func(n int) error
}

func runCases() []runCase {
	elsewhere := sockaddrOf(netip.MustParseAddr("192.0.2.1"), testPort)
	local, mapped := sockaddrOf(netip.MustParseAddr("127.0.0.1"), testPort), sockaddrOf(netip.MustParseAddr("::ffff:127.0.0.1"), testPort)
	return []runCase{
		{"getppid", [3]uint64{0, 0, 0}, false, func(n int) error {
			for range n {
				_ = unix.Getppid()
			}
			return nil
		}},
		{"bind", [3]uint64{1, 1, 2}, false, func(n int) error {
			return withSockets(n, unix.AF_INET, unix.SOCK_DGRAM, func(fd int) error {
				return bindRaw(fd, sockaddrOf(netip.MustParseAddr("127.0.0.1"), 0))
			})
		}},
		{"bind, failed", [3]uint64{1, 1, 2}, false, func(n int) error {
			return withSockets(n, unix.AF_INET, unix.SOCK_STREAM, func(fd int) error { return wantErrno(bindRaw(fd, elsewhere), unix.EADDRNOTAVAIL) })
		}},
		{"listen", [3]uint64{1, 1, 2}, false, func(n int) error {
			return withSockets(n, unix.AF_INET, unix.SOCK_STREAM, func(fd int) error { return unix.Listen(fd, 1) })
		}},
		{"connect, UDP", [3]uint64{1, 1, 1}, false, func(n int) error {
			return withSockets(n, unix.AF_INET, unix.SOCK_DGRAM, func(fd int) error { return connectRaw(fd, local) })
		}},
		{"connect, TCP, refused", [3]uint64{1, 1, 1}, false, func(n int) error {
			return withSockets(n, unix.AF_INET, unix.SOCK_STREAM, func(fd int) error { return wantErrno(connectRaw(fd, local), unix.ECONNREFUSED) })
		}},
		{"connect, TCP, to ::ffff:127.0.0.1", [3]uint64{1, 2, 1}, false, func(n int) error {
			return withSockets(n, unix.AF_INET6, unix.SOCK_STREAM, func(fd int) error { return wantErrno(connectRaw(fd, mapped), unix.ECONNREFUSED) })
		}},
		{"connect, TCP, no port left", [3]uint64{1, 1, 1}, true, func(n int) error {
			return withSockets(n, unix.AF_INET, unix.SOCK_STREAM, func(fd int) error { return wantErrno(connectRaw(fd, local), unix.EADDRNOTAVAIL) })
		}},
		{"connect, Unix socket", [3]uint64{1, 0, 1}, false, func(n int) error {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			for range n {
				if err := wantErrno(unix.Connect(fd, &unix.SockaddrUnix{Name: "@nobody listens here"}), unix.ECONNREFUSED); err != nil {
					return err
				}
			}
			return nil
		}},
	}
}

func wantErrno(err error, want unix.Errno) error {
	if !errors.Is(err, want) {
		return fmt.Errorf("want %w, got %w", want, err)
	}
	return nil
}

// withSockets calls f with n sockets, one after the other.
func withSockets(n, domain, typ int, f func(fd int) error) error {
	for range n {
		fd, err := unix.Socket(domain, typ|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		err = f(fd)
		_ = unix.Close(fd)
		if err != nil {
			return err
		}
	}
	return nil
}

// runs returns how often the programs of the tracer ran while the kernel counted that.
func (t *Tracer) runs() (sum uint64, err error) {
	for _, p := range t.programs {
		stats, err := p.Stats()
		if err != nil {
			return 0, err
		}
		sum += stats.RunCount
	}
	return sum, nil
}

// TestRunsOfEachCall says which calls cost a run of a program. Its log is the table of
// docs/performance.md. Where other processes of the host make such calls, too, there are more runs, so
// that it counts again until they pause.
func TestRunsOfEachCall(t *testing.T) {
	const calls = 200
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		requireConnects(t, tr)
		counting, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
		if err != nil {
			kerneltest.Skip(t, "the kernel does not count runs: %v", err)
		}
		defer counting.Close()
		tg := targets(t, kerneltest.New(t))[0]
		deadline := time.Now().Add(2 * time.Minute)
		for _, c := range runCases() {
			newCramped(t).Do(t, func() {
				for range ephemeral {
					if c.noPorts {
						tg.openBound(t, 0)
					}
				}
				want := calls * c.want[tr.Mode()-ModeFexit]
				got := runsOf(t, tr, c, calls)
				for got >= want+calls && time.Now().Before(deadline) {
					time.Sleep(50 * time.Millisecond)
					got = runsOf(t, tr, c, calls)
				}
				t.Logf("%-34s %d runs for %d calls", c.name, got, calls)
				if got < want || got >= want+calls {
					t.Errorf("%s: %d runs for %d calls, want %d", c.name, got, calls, want)
				}
			})
		}
	})
}

// runsOf returns how often programs of tr ran while c made its calls.
func runsOf(t *testing.T, tr *Tracer, c runCase, calls int) uint64 {
	t.Helper()
	before, err := tr.runs()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.call(calls); err != nil {
		t.Fatalf("%s: %v", c.name, err)
	}
	after, err := tr.runs()
	if err != nil {
		t.Fatal(err)
	}
	return after - before
}
