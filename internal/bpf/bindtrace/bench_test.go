//go:build linux

package bindtrace

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
)

// BenchmarkSyscalls measures what an attached tracer costs other processes'
// system calls. Nobody reads the ring, so failing binds lose their events.
func BenchmarkSyscalls(b *testing.B) {
	kerneltest.RequireRoot(b)
	ns := kerneltest.New(b)
	required, set := requiredModes()
	for _, mode := range []string{"off", ModeTracepoint.String(), ModeFexit.String()} {
		if mode != "off" && set && !slices.Contains(required, mode) {
			continue
		}
		b.Run(mode, func(b *testing.B) {
			attachForBenchmark(b, mode)
			b.Run("getppid", func(b *testing.B) {
				for b.Loop() {
					_, _, _ = unix.RawSyscall(unix.SYS_GETPPID, 0, 0, 0)
				}
			})
			b.Run("bind_fails", func(b *testing.B) {
				addr := sockaddrOf(netip.MustParseAddr("192.0.2.1"), testPort)
				ns.Do(b, func() {
					fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
					if err != nil {
						b.Fatal(err)
					}
					defer unix.Close(fd)
					for b.Loop() {
						if err := bindRaw(fd, addr); err != unix.EADDRNOTAVAIL {
							b.Fatal(err)
						}
					}
				})
			})
			// With socket and close, since a socket binds once.
			b.Run("bind_succeeds", func(b *testing.B) {
				addr := sockaddrOf(netip.MustParseAddr("127.0.0.1"), testPort)
				ns.Do(b, func() {
					for b.Loop() {
						fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
						if err != nil {
							b.Fatal(err)
						}
						if err := bindRaw(fd, addr); err != nil {
							b.Fatal(err)
						}
						unix.Close(fd)
					}
				})
			})
		})
	}
}

func attachForBenchmark(b *testing.B, mode string) {
	b.Helper()
	opts := Options{Mode: ModeTracepoint}
	switch mode {
	case "off":
		return
	case ModeFexit.String():
		opts.Mode = ModeFexit
	}
	tr, err := New(opts)
	var unavailable *UnavailableError
	if errors.As(err, &unavailable) {
		kerneltest.Skip(b, "%v", err)
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = tr.Close() })
}

// BenchmarkCounts reads a table with as many keys as it holds.
func BenchmarkCounts(b *testing.B) {
	kerneltest.RequireRoot(b)
	tr, err := New(Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer tr.Close()
	var counts []Count
	b.ReportAllocs()
	for b.Loop() {
		if counts, err = tr.Counts(counts[:0]); err != nil {
			b.Fatal(err)
		}
	}
}
