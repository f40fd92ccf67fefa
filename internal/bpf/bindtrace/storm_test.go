//go:build linux

package bindtrace

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bindtrace/slots"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/reexec"
	"sockstate_exporter/internal/sock"
)

const stormEnv = "SOCKSTATE_BINDTRACE_STORM"

// storm is a process that fails to bind, over and over: "calls ports".
func storm([]string) error {
	var calls, ports int
	if _, err := fmt.Sscan(os.Getenv(stormEnv), &calls, &ports); err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for i := range calls {
		addr := sockaddrOf(netip.MustParseAddr("192.0.2.1"), uint16(testPort+i%ports))
		if err := bindRaw(fd, addr); !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("bind: want EADDRNOTAVAIL, got %v", err)
		}
	}
	return nil
}

// runStorm starts several such processes and waits for them.
func runStorm(t *testing.T, ns *kerneltest.NetNS, processes, calls, ports int) {
	t.Helper()
	start := time.Now()
	runProcesses(t, ns, processes, "storm", fmt.Sprint(calls, " ", ports))
	t.Logf("%d failing binds in %v", processes*calls, time.Since(start).Round(time.Millisecond))
}

// runProcesses starts processes of a role and waits for them.
func runProcesses(t *testing.T, ns *kerneltest.NetNS, processes int, role, storm string) {
	t.Helper()
	done := make(chan error, processes)
	for range processes {
		cmd := ns.Command(t, "/proc/self/exe")
		cmd.Env = reexec.RoleEnv(role, stormEnv+"="+storm)
		cmd.Stderr = os.Stderr
		go func() { done <- cmd.Run() }()
	}
	for range processes {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

// checkStats fails for anything the tracer says it did not see.
func checkStats(t *testing.T, tr *Tracer) Stats {
	t.Helper()
	s, err := tr.Stats()
	if err != nil {
		t.Fatal(err)
	}
	s.Lost -= earlier[tr].Lost
	s.Unattributed -= earlier[tr].Unattributed
	s.Missed -= earlier[tr].Missed
	if s.Unattributed != 0 || s.Missed != 0 {
		t.Errorf("stats %+v: want nothing unattributed, nothing missed", s)
	}
	return s
}

// While everything is read as fast as it can be.
func TestStormIsCountedExactly(t *testing.T) {
	const processes, calls = 5, 8_000
	eachNewTracer(t, func(t *testing.T, tr *Tracer) {
		ns := kerneltest.New(t)
		watchOnly(t, tr, ns, testPort)
		netns := uint32(ns.Inode())

		var received, lastSeen uint64
		readerDone, scraperDone := make(chan error, 1), make(chan error, 1)
		stop := make(chan struct{})
		go func() {
			var e Event
			for {
				err := tr.Read(time.Now().Add(time.Second), &e)
				if errors.Is(err, os.ErrDeadlineExceeded) {
					select {
					case <-stop:
						readerDone <- nil
						return
					default:
						continue
					}
				}
				if err != nil {
					readerDone <- err
					return
				}
				if e.Netns == netns {
					received++
				}
			}
		}()
		go func() {
			var counts []Count
			for {
				var err error
				if counts, err = tr.Counts(counts[:0]); err != nil {
					scraperDone <- err
					return
				}
				var sum uint64
				for _, c := range counts {
					if c.Key.Netns == netns {
						sum += c.N
					}
				}
				if sum < lastSeen {
					scraperDone <- fmt.Errorf("count fell from %d to %d", lastSeen, sum)
					return
				}
				lastSeen = sum
				select {
				case <-stop:
					scraperDone <- nil
					return
				default:
				}
			}
		}()
		runStorm(t, ns, processes, calls, 1)
		close(stop)
		if err := errors.Join(<-readerDone, <-scraperDone); err != nil {
			t.Fatal(err)
		}

		if got := total(countsOf(t, tr, netns)); got != processes*calls {
			t.Errorf("counted %d failures, want %d", got, processes*calls)
		}
		checkNothingKept(t, tr)
		s := checkStats(t, tr)
		// Events of others on this host may be among the lost ones.
		counts, err := tr.Counts(nil)
		if err != nil {
			t.Fatal(err)
		}
		var all uint64
		for _, c := range counts {
			all += c.N
		}
		others := all - processes*calls
		if sum := received + s.Lost; sum < processes*calls || sum > processes*calls+others {
			t.Errorf("%d events received and %d lost, want %d together, and %d of others at most", received, s.Lost, processes*calls, others)
		}
		t.Logf("%d events received, %d lost", received, s.Lost)
	})
}

// checkNothingKept fails if arguments of calls that returned are still there.
// Those of the host's own calls come and go.
func checkNothingKept(t *testing.T, tr *Tracer) {
	t.Helper()
	var kept int
	for range 50 {
		var thread uint64
		var call bpfCall
		kept = 0
		for entries := tr.objects.Calls.Iterate(); entries.Next(&thread, &call); {
			kept++
		}
		if kept == 0 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("arguments of %d calls are kept, want none", kept)
}

func TestFullRingLosesEventsOnly(t *testing.T) {
	const processes, calls = 4, 500
	eachMode(t, Options{RingSize: 1}, func(t *testing.T, tr *Tracer) {
		ns := kerneltest.New(t)
		watchOnly(t, tr, ns, testPort)
		netns := uint32(ns.Inode())
		runStorm(t, ns, processes, calls, 1)
		if got := total(countsOf(t, tr, netns)); got != processes*calls {
			t.Errorf("counted %d failures, want %d", got, processes*calls)
		}
		lost := checkStats(t, tr).Lost
		var received uint64
		for e := new(Event); ; received++ {
			if err := tr.Read(time.Now(), e); errors.Is(err, os.ErrDeadlineExceeded) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if received == 0 || lost == 0 || received+lost < processes*calls {
			t.Errorf("%d events received and %d lost of %d: want some of each, and all", received, lost, processes*calls)
		}
	})
}

// Ports for which there is no slot count as other ports of their namespace.
func TestPortsWithoutASlotLoseNothing(t *testing.T) {
	const processes, calls, ports, numbered = 4, 1000, 10, 3
	const others = 1 + 1 + 2 // all other namespaces and port 0 there; the same of this one
	eachMode(t, Options{MaxSlots: others + numbered}, func(t *testing.T, tr *Tracer) {
		ns := kerneltest.New(t)
		var watch []Port
		for i := range ports {
			watch = append(watch, Port{Netns: uint32(ns.Inode()), Number: uint16(testPort + i)})
		}
		// The tracer has watched its own namespace. Its slots are free after a moment.
		for start := time.Now(); time.Since(start) < slots.LeavingTime; time.Sleep(slots.LeavingTime / 10) {
			if err := tr.SetWatch(nil, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := tr.SetWatch([]uint32{uint32(ns.Inode())}, watch); err != nil {
			t.Fatal(err)
		}
		runStorm(t, ns, processes, calls, ports)
		got := countsOf(t, tr, uint32(ns.Inode()))
		want := map[Key]uint64{}
		for i := range ports {
			key := Key{Netns: uint32(ns.Inode()), Port: uint16(testPort + i), Family: sock.FamilyIPv4, Protocol: sock.TCP, Errno: unix.EADDRNOTAVAIL}
			if i >= numbered {
				key.Port, key.OtherPort = 0, true
			}
			want[key] += processes * calls / ports
		}
		if !maps.Equal(got, want) {
			t.Errorf("counted %+v, want %+v", got, want)
		}
		if s := checkStats(t, tr); s.SlotsUsed != others+numbered || s.SlotsLimit != others+numbered || s.SlotsLacking != ports-numbered {
			t.Errorf("stats %+v: want %d slots, all used, and %d lacking", s, others+numbered, ports-numbered)
		}
	})
}

// Several threads meet one port after the other at the same moment.
func TestCallsAtTheSameMomentLoseNothing(t *testing.T) {
	const threads, ports = 4, 1000 // watchOnly watches each twice
	eachNewTracer(t, func(t *testing.T, tr *Tracer) {
		ns := kerneltest.New(t)
		var watch []uint16
		for i := range ports {
			watch = append(watch, uint16(testPort+i))
		}
		watchOnly(t, tr, ns, watch...)

		var arrived atomic.Int64
		done := make(chan error, threads)
		for range threads {
			go func() {
				done <- ns.Run(func() error { return bindInStep(&arrived, threads, ports) })
			}()
		}
		for range threads {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}

		own := countsOf(t, tr, uint32(ns.Inode()))
		wrong := 0
		for _, n := range own {
			if n != threads {
				wrong++
			}
		}
		if len(own) != ports || wrong != 0 {
			t.Errorf("%d keys, %d of them wrong: want %d, each counted %d times", len(own), wrong, ports, threads)
		}
		checkStats(t, tr)
	})
}

// bindInStep fails to bind to one port after the other, at the same time as
// the other threads that have arrived.
func bindInStep(arrived *atomic.Int64, threads, ports int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for i := range ports {
		addr := sockaddrOf(netip.MustParseAddr("192.0.2.1"), uint16(testPort+i))
		arrived.Add(1)
		for arrived.Load() < int64((i+1)*threads) {
			runtime.Gosched()
		}
		if err := bindRaw(fd, addr); !errors.Is(err, unix.EADDRNOTAVAIL) {
			arrived.Add(int64(ports * threads)) // the others must not wait
			return fmt.Errorf("bind: want EADDRNOTAVAIL, got %v", err)
		}
	}
	return nil
}
