//go:build linux

package bindtrace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bindtrace/slots"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/reexec"
	"sockstate_exporter/internal/sock"
)

const (
	hostileUID     = 65534
	subordinateUID = 200_000
)

// failOnce fails to bind to a port.
func failOnce(port uint16) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := bindRaw(fd, sockaddrOf(netip.MustParseAddr("192.0.2.1"), port)); !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("bind: want EADDRNOTAVAIL, got %v", err)
	}
	return nil
}

// failInEveryWay is a process that fails to bind in every way that it can choose, to 400 ports.
func failInEveryWay([]string) error {
	for port := range uint16(400) {
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			for _, kind := range [][2]int{{unix.SOCK_STREAM, 0}, {unix.SOCK_DGRAM, 0}, {unix.SOCK_STREAM, unix.IPPROTO_MPTCP}} {
				if err := failWith(family, kind[0], kind[1], 20_000+port); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func failWith(family, kind, protocol int, port uint16) error {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ENOPROTOOPT) {
		return nil // no MPTCP
	}
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	defer unix.Close(fd)
	for _, address := range []string{"192.0.2.1", "2001:db8::1", "fe80::1", "ff02::1"} {
		if err := bindRaw(fd, sockaddrOf(netip.MustParseAddr(address), port)); err == nil {
			return fmt.Errorf("bind to %s worked", address)
		}
	}
	return nil
}

// Whatever another user does, failures of a watched port count under its number.
func TestAnotherUserCannotTakeTheCountOfAWatchedPort(t *testing.T) {
	eachMode(t, Options{maxDetails: slots.DefaultMaxDetails}, func(t *testing.T, tr *Tracer) {
		ns := kerneltest.New(t)
		netns := uint32(ns.Inode())
		watch := []uint16{testPort}
		for port := range uint16(400) { // the other user listens on these
			watch = append(watch, 20_000+port)
		}
		watchOnly(t, tr, ns, watch...)
		cmd := ns.Command(t, "/proc/self/exe").As(hostileUID, hostileUID)
		cmd.Env = reexec.RoleEnv("fail-in-every-way")
		cmd.Stderr = os.Stderr
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		keys := countsOf(t, tr, netns)
		perPort := make(map[uint16]int)
		for k := range keys {
			if k.OtherPort {
				t.Errorf("%+v was counted, want the number of the port", k)
			}
			perPort[k.Port]++
		}
		if len(perPort) != 400 || len(keys) < 8*400 {
			t.Errorf("%d keys of %d ports: the other user must make many", len(keys), len(perPort))
		}
		ns.Do(t, func() {
			if err := failOnce(testPort); err != nil {
				t.Error(err)
			}
		})
		want := Key{Netns: netns, Port: testPort, Family: sock.FamilyIPv4, Protocol: sock.TCP, Errno: unix.EADDRNOTAVAIL}
		if got := countsOf(t, tr, netns)[want]; got != 1 {
			t.Errorf("%+v counted %d times, want 1", want, got)
		}
	})
}

// Nobody reads while one user fails 50,000 times. That would fill the ring five times.
func TestOneUsersStormLeavesRoomForTheEventsOfOthers(t *testing.T) {
	const calls = 50_000
	eachNewTracer(t, func(t *testing.T, tr *Tracer) {
		ns := kerneltest.New(t)
		netns := uint32(ns.Inode())
		watchOnly(t, tr, ns, testPort)
		cmd := ns.Command(t, "/proc/self/exe").As(hostileUID, hostileUID)
		cmd.Env = reexec.RoleEnv("storm", stormEnv+"="+fmt.Sprint(calls, " ", 1))
		cmd.Stderr = os.Stderr
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		ns.Do(t, func() {
			if err := failOnce(testPort); err != nil {
				t.Error(err)
			}
		})
		hostile := 0
		for {
			e := nextEvent(t, tr, netns)
			if e.UID == 0 {
				break
			}
			hostile++
		}
		if hostile == 0 {
			t.Error("no event of the storm")
		}
		s := checkStats(t, tr)
		if got := total(countsOf(t, tr, netns)); got != calls+1 || uint64(hostile)+s.Lost < calls {
			t.Errorf("%d failures counted, %d events and %d lost: want %d, and %d together", got, hostile, s.Lost, calls+1, calls)
		}
	})
}

// Ports that are not watched, and namespaces of users, have half of the ring.
func TestEventsOfOtherPortsLeaveRoomForThoseOfWatchedOnes(t *testing.T) {
	size := binary.Size(bpfEvent{}) + 8 // with its header
	half := os.Getpagesize()/2/size + 1 // of the ring
	eachMode(t, Options{RingSize: 1}, func(t *testing.T, tr *Tracer) {
		ns := kerneltest.New(t)
		netns := uint32(ns.Inode())
		watchOnly(t, tr, ns, testPort)
		fail := func(port uint16) {
			t.Helper()
			ns.Do(t, func() {
				if err := failOnce(port); err != nil {
					t.Error(err)
				}
			})
		}
		for range 2 * half {
			fail(otherPort)
		}
		fail(testPort)
		others := 0
		for nextEvent(t, tr, netns).Port != testPort {
			others++
		}
		if others == 0 || others > half {
			t.Errorf("%d events of other ports, want some, and no more than %d", others, half)
		}
	})
}

// startInUserNamespace starts this binary in a user namespace of its own, and prints its pid.
func startInUserNamespace([]string) error {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = reexec.RoleEnv("fail-when-told")
	cmd.Stdin, cmd.Stderr = os.Stdin, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, AmbientCaps: []uintptr{unix.CAP_SETUID}}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start in a user namespace: %w", err)
	}
	fmt.Println(cmd.Process.Pid)
	return cmd.Wait()
}

// failWhenTold becomes root of its user namespace, and fails to bind, once its standard input ends.
func failWhenTold([]string) error {
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	if err := syscall.Setuid(0); err != nil {
		return fmt.Errorf("become root of the user namespace: %w", err)
	}
	return failOnce(testPort)
}

// A user of the host is one user, also with subordinate uids.
func TestUserNamespaceIsOfTheUserWhoMadeIt(t *testing.T) {
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		ns := kerneltest.New(t)
		watchOnly(t, tr, ns, testPort)
		cmd := ns.Command(t, "/proc/self/exe").As(hostileUID, hostileUID)
		cmd.Env = reexec.RoleEnv("in-user-namespace")
		cmd.Stderr = os.Stderr
		in, out := reexec.StartPiped(t, cmd)
		line, err := out.ReadString('\n')
		pid, atoiErr := strconv.Atoi(strings.TrimSpace(line))
		if err != nil || atoiErr != nil {
			_ = cmd.Wait()
			kerneltest.Skip(t, "user namespaces of ordinary users are not allowed: it printed %q", line)
		}
		uidMap := fmt.Sprintf("/proc/%d/uid_map", pid)
		if err := os.WriteFile(uidMap, fmt.Appendf(nil, "0 %d 1\n", subordinateUID), 0); err != nil {
			t.Error(err)
		}
		if err := errors.Join(in.Close(), cmd.Wait()); err != nil {
			t.Error(err)
		}
		e := nextEvent(t, tr, uint32(ns.Inode()))
		if e.User != hostileUID || e.UID != subordinateUID {
			t.Errorf("the event is of user %d (uid %d), want %d (uid %d)", e.User, e.UID, hostileUID, subordinateUID)
		}
		ns.Do(t, func() {
			if err := failOnce(testPort); err != nil {
				t.Error(err)
			}
		})
		if e = nextEvent(t, tr, uint32(ns.Inode())); e.User != 0 || e.UID != 0 {
			t.Errorf("the event is of user %d (uid %d), want 0", e.User, e.UID)
		}
	})
}

// A reader reads events in a thread of its own, and counts them. The host may have a storm of its
// own: it keeps none.
type reader struct {
	thread chan int
	events atomic.Uint64
	own    atomic.Uint64 // of the namespace
	done   chan error
}

func startReader(tr *Tracer, netns uint32) *reader {
	r := &reader{thread: make(chan int, 1), done: make(chan error, 1)}
	go func() {
		runtime.LockOSThread() // and the thread ends with the goroutine
		r.thread <- unix.Gettid()
		for {
			var e Event
			if err := tr.Read(time.Time{}, &e); err != nil {
				r.done <- err
				return
			}
			if e.Netns == netns {
				r.own.Add(1)
			}
			r.events.Add(1)
		}
	}()
	return r
}

// sleeps returns how often a thread gave up the CPU to wait.
func sleeps(t *testing.T, thread int) uint64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/status", thread))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "voluntary_ctxt_switches:"); ok {
			n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("no voluntary_ctxt_switches")
	return 0
}

// A bind that works must not cost more than the program itself.
func TestSuccessfulBindsDoNotWakeTheReader(t *testing.T) {
	const calls = 100_000
	eachNewTracer(t, func(t *testing.T, tr *Tracer) {
		ns := kerneltest.New(t)
		watchOnly(t, tr, ns, testPort)
		r := startReader(tr, uint32(ns.Inode()))
		defer func() {
			if err := tr.Close(); err != nil {
				t.Error(err)
			}
			if err := <-r.done; !errors.Is(err, os.ErrClosed) {
				t.Errorf("reader ended with %v, want %v", err, os.ErrClosed)
			}
		}()
		thread := <-r.thread

		// One failure wakes it: the test can see that.
		before := sleeps(t, thread)
		ns.Do(t, func() {
			if err := failOnce(testPort); err != nil {
				t.Error(err)
			}
		})
		for range 1000 {
			if r.own.Load() > 0 {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(100 * time.Millisecond) // until it waits again
		if after := sleeps(t, thread); after == before {
			t.Fatal("a failed bind did not wake the reader")
		}

		before = sleeps(t, thread)
		eventsBefore := r.events.Load()
		ns.Do(t, func() {
			for i := range calls {
				if err := bindAndClose(uint16(10_000 + i%10_000)); err != nil {
					t.Fatal(err)
				}
			}
		})
		time.Sleep(100 * time.Millisecond)
		after := sleeps(t, thread)
		if got := r.own.Load(); got != 1 {
			t.Errorf("%d events of this namespace, want 1", got)
		}
		// Failures of others on this host wake it as well, and on a busy host it sleeps for other reasons, too.
		if others := r.events.Load() - eventsBefore; after-before > others+calls/1000 {
			t.Errorf("the reader was woken %d times by %d binds that worked, and had %d events", after-before, calls, others)
		}
		if got := total(countsOf(t, tr, uint32(ns.Inode()))); got != 1 {
			t.Errorf("%d failures counted, want 1", got)
		}
	})
}

func bindAndClose(port uint16) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Bind(fd, &unix.SockaddrInet4{Port: int(port), Addr: [4]byte{127, 0, 0, 1}})
}
