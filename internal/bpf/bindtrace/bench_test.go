//go:build linux

package bindtrace

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/timewait"
	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/sock"
)

// BenchmarkSyscalls measures what an attached tracer costs other processes'
// system calls. Nobody reads the ring, so failing binds lose their events.
func BenchmarkSyscalls(b *testing.B) {
	kerneltest.RequireRoot(b)
	ns := kerneltest.New(b)
	required, set := requiredModes()
	for _, c := range []struct {
		name string
		opts Options // without a mode: no tracer
	}{
		{"off", Options{}},
		{"tracepoint", Options{Mode: ModeTracepoint}},
		{"tracepoint_no_connects", Options{Mode: ModeTracepoint, NoConnects: true}},
		{"kprobe", Options{Mode: ModeKprobe}},
		{"kprobe_no_connects", Options{Mode: ModeKprobe, NoConnects: true}},
		{"fexit", Options{Mode: ModeFexit}},
		{"fexit_no_connects", Options{Mode: ModeFexit, NoConnects: true}},
	} {
		if c.opts.Mode != ModeAuto && set && !slices.Contains(required, c.opts.Mode.String()) {
			continue
		}
		b.Run(c.name, func(b *testing.B) {
			attachForBenchmark(b, c.opts)
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
			b.Run("connect_fails", func(b *testing.B) { ns.Do(b, func() { benchmarkFailingConnect(b) }) })
			b.Run("connect_udp", func(b *testing.B) { ns.Do(b, func() { benchmarkConnectUDP(b) }) })
			b.Run("tcp_connection", func(b *testing.B) { ns.Do(b, func() { benchmarkConnection(b) }) })
		})
	}
}

// openForBenchmark makes a socket that is closed when the benchmark ends.
func openForBenchmark(b *testing.B, typ int) int {
	b.Helper()
	fd, err := unix.Socket(unix.AF_INET, typ|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { unix.Close(fd) })
	return fd
}

// listenForBenchmark is a listener and its address.
func listenForBenchmark(b *testing.B) (int, []byte) {
	b.Helper()
	fd, addr := openForBenchmark(b, unix.SOCK_STREAM), sockaddrOf(netip.MustParseAddr("127.0.0.1"), testPort)
	err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err := errors.Join(err, bindRaw(fd, addr), unix.Listen(fd, 16)); err != nil {
		b.Fatal(err)
	}
	return fd, addr
}

// benchmarkFailingConnect asks for a connection that exists: this fails with
// EADDRNOTAVAIL without a search for a port.
func benchmarkFailingConnect(b *testing.B) {
	b.Helper()
	_, addr := listenForBenchmark(b)
	var fds [2]int
	for i := range fds {
		fds[i] = openForBenchmark(b, unix.SOCK_STREAM)
		err := unix.SetsockoptInt(fds[i], unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		if err := errors.Join(err, bindRaw(fds[i], sockaddrOf(netip.MustParseAddr("127.0.0.1"), otherPort))); err != nil {
			b.Fatal(err)
		}
	}
	linger := &unix.Linger{Onoff: 1} // nothing stays in TIME_WAIT
	if err := errors.Join(unix.SetsockoptLinger(fds[0], unix.SOL_SOCKET, unix.SO_LINGER, linger), connectRaw(fds[0], addr)); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := connectRaw(fds[1], addr); err != unix.EADDRNOTAVAIL {
			b.Fatal(err)
		}
	}
}

// benchmarkConnectUDP connects a UDP socket again and again: no connect() that
// succeeds costs less.
func benchmarkConnectUDP(b *testing.B) {
	b.Helper()
	fd, addr := openForBenchmark(b, unix.SOCK_DGRAM), sockaddrOf(netip.MustParseAddr("127.0.0.1"), testPort)
	for b.Loop() {
		if err := connectRaw(fd, addr); err != nil {
			b.Fatal(err)
		}
	}
}

// benchmarkConnection opens and aborts a TCP connection by loopback, as a busy
// client and its server would.
func benchmarkConnection(b *testing.B) {
	b.Helper()
	listener, addr := listenForBenchmark(b)
	for b.Loop() {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			b.Fatal(err)
		}
		err = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		if err := errors.Join(err, connectRaw(fd, addr)); err != nil {
			b.Fatal(err)
		}
		peer, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		if err != nil {
			b.Fatal(err)
		}
		unix.Close(fd)
		unix.Close(peer)
	}
}

func attachForBenchmark(b *testing.B, opts Options) *Tracer {
	b.Helper()
	if opts.Mode == ModeAuto {
		return nil
	}
	tr, err := New(opts)
	var unavailable *sock.UnavailableError
	if errors.As(err, &unavailable) {
		kerneltest.Skip(b, "%v", err)
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = tr.Close() })
	return tr
}

// BenchmarkCounts reads the slots of as many ports as there can be. No bind has failed on most.
func BenchmarkCounts(b *testing.B) {
	kerneltest.RequireRoot(b)
	tr, err := New(Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer tr.Close()
	_, own, err := linux.OwnNetNS()
	if err != nil {
		b.Fatal(err)
	}
	var watch []Port
	for port := range uint16(defaultMaxSlots) {
		watch = append(watch, Port{Netns: uint32(own), Number: port})
	}
	if err := tr.SetWatch([]uint32{uint32(own)}, watch); err != nil {
		b.Fatal(err)
	}
	var counts []Count
	b.ReportAllocs()
	for b.Loop() {
		if counts, err = tr.Counts(counts[:0]); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCapture measures what the capture of blockers adds to a bind that fails, by the number of
// sockets on the port: only bound ones in the way, or TIME_WAIT sockets and a listener. A user has
// blockers for a thousand failures a second, so the share of the user is made whole again meanwhile.
func BenchmarkCapture(b *testing.B) {
	kerneltest.RequireRoot(b)
	required, set := requiredModes()
	for _, mode := range []Mode{ModeTracepoint, ModeFexit} {
		if set && !slices.Contains(required, mode.String()) {
			continue
		}
		for _, sockets := range []int{1, 8, 1000, 5000} {
			ns := kerneltest.New(b)
			if sockets < 1000 {
				crowd(b, ns, sockets)
			} else {
				l := ns.Listen(b, netip.AddrPortFrom(v4any, testPort), kerneltest.Options{})
				timewait.MustMake(b, ns, timewait.Options{Listeners: []*kerneltest.Listener{l}, Count: sockets})
			}
			for _, c := range []struct {
				name   string
				opts   Options
				traced bool
			}{
				{"off", Options{}, false},
				{"traced", Options{Mode: mode, NoConnects: true, RingSize: 1 << 24, noCapture: true}, true},
				{"captured", Options{Mode: mode, NoConnects: true, RingSize: 1 << 24}, true},
			} {
				b.Run(fmt.Sprintf("%v/%d/%s", mode, sockets, c.name), func(b *testing.B) {
					benchmarkCapture(b, ns, unix.SOCK_STREAM, c.opts, c.traced)
				})
			}
		}
	}
}

func benchmarkCapture(b *testing.B, ns *kerneltest.NetNS, typ int, opts Options, traced bool) {
	b.Helper()
	const batch = 100
	var tr *Tracer
	if traced {
		tr = attachForBenchmark(b, opts)
		if err := tr.SetWatch([]uint32{uint32(ns.Inode())}, []Port{{Netns: uint32(ns.Inode()), Number: testPort}}); err != nil {
			b.Fatal(err)
		}
	}
	fd := openForBenchmarkIn(b, ns, typ)
	addr := sockaddrOf(v4any, testPort)
	var captured, calls int
	for calls = 0; b.Loop(); calls++ {
		if traced && calls%batch == 0 {
			b.StopTimer()
			for _, e := range drain(b, tr, uint32(ns.Inode())) {
				if e.Captured != CaptureNone {
					captured++
				}
			}
			_ = tr.objects.Users.Delete(bpfUser{Netns: uint32(ns.Inode())})
			b.StartTimer()
		}
		if err := bindRaw(fd, addr); err != unix.EADDRINUSE {
			b.Fatal(err)
		}
	}
	if want := calls - batch; traced && !opts.noCapture && captured < want {
		b.Errorf("%d of %d calls captured", captured, calls)
	}
}

func openForBenchmarkIn(b *testing.B, ns *kerneltest.NetNS, typ int) (fd int) {
	b.Helper()
	ns.Do(b, func() { fd = openForBenchmark(b, typ) })
	return fd
}

// BenchmarkCaptureUDP is BenchmarkCapture for UDP, whose sockets are in one chain.
func BenchmarkCaptureUDP(b *testing.B) {
	kerneltest.RequireRoot(b)
	for _, sockets := range []int{1, 8, 1000} {
		ns := kerneltest.New(b)
		for i := range sockets {
			at := netip.AddrFrom4([4]byte{127, 0, byte(i >> 8), byte(i)})
			ns.ListenUDP(b, netip.AddrPortFrom(at, testPort), kerneltest.Options{})
		}
		for _, c := range []struct {
			name   string
			opts   Options
			traced bool
		}{
			{"off", Options{}, false},
			{"traced", Options{Mode: ModeTracepoint, NoConnects: true, RingSize: 1 << 24, noCapture: true}, true},
			{"captured", Options{Mode: ModeTracepoint, NoConnects: true, RingSize: 1 << 24}, true},
		} {
			b.Run(fmt.Sprintf("%d/%s", sockets, c.name), func(b *testing.B) {
				benchmarkCapture(b, ns, unix.SOCK_DGRAM, c.opts, c.traced)
			})
		}
	}
}

// BenchmarkUnixBind measures what the tracer adds to a bind of a Unix socket that fails with EADDRINUSE. Where
// the user's share of events is used up, it is only counted.
func BenchmarkUnixBind(b *testing.B) {
	kerneltest.RequireRoot(b)
	ns, path := kerneltest.New(b), filepath.Join(b.TempDir(), "app.sock")
	open := func() (fd int) {
		ns.Do(b, func() {
			var err error
			if fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
				b.Fatal(err)
			}
		})
		b.Cleanup(func() { _ = unix.Close(fd) })
		return fd
	}
	if err := bindRaw(open(), sunOf(path)); err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name           string
		traced, events bool
	}{{"off", false, false}, {"counted", true, false}, {"event", true, true}} {
		b.Run(c.name, func(b *testing.B) {
			var tr *Tracer
			if c.traced {
				tr = attachForBenchmark(b, Options{Mode: ModeTracepoint, NoConnects: true})
				if err := tr.SetWatch([]uint32{uint32(ns.Inode())}, nil); err != nil {
					b.Fatal(err)
				}
			}
			fd, addr := open(), sunOf(path)
			events, calls := 0, 0
			for ; b.Loop(); calls++ {
				if c.events && calls%20 == 0 {
					b.StopTimer()
					events += drainUnix(b, tr)
					_ = tr.objects.UnixUsers.Delete(bpfUser{Netns: uint32(ns.Inode())})
					b.StartTimer()
				}
				if err := bindRaw(fd, addr); err != unix.EADDRINUSE {
					b.Fatal(err)
				}
			}
			if c.events && events < calls-20 {
				b.Errorf("%d events of %d calls", events, calls)
			}
		})
	}
}

// drainUnix reads all events, and returns how many there were.
func drainUnix(b *testing.B, tr *Tracer) (n int) {
	b.Helper()
	for {
		var e UnixEvent
		switch err := tr.ReadUnix(time.Now(), &e); {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return n
		case err != nil:
			b.Fatal(err)
		default:
			n++
		}
	}
}
