//go:build linux

package bindtrace

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"
	"unsafe" //nolint:depguard // seccomp wants addresses

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/sock"
)

// manyCalls is more than the kernel has return probes for one function: max(10, 2 * CPUs).
func manyCalls(t *testing.T) (calls, probes int) {
	t.Helper()
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		t.Fatal(err)
	}
	probes = max(10, 2*cpus)
	return probes + 5, probes
}

// waitInConnect makes so many threads wait in connect() for a listener whose queue is full.
func waitInConnect(t *testing.T, ns *kerneltest.NetNS, tg target, calls int) {
	t.Helper()
	var fds []int
	returned := make(chan error, calls)
	ns.Do(t, func() {
		listener := tg.openBound(t, testPort)
		if err := unix.Listen(listener, 0); err != nil {
			t.Fatal(err)
		}
		if err := connectRaw(tg.open(t), sockaddrOf(tg.local, testPort)); err != nil {
			t.Fatal(err)
		}
		for range calls {
			fds = append(fds, tg.open(t))
		}
	})
	for _, fd := range fds {
		go func() { returned <- connectRaw(fd, sockaddrOf(tg.local, testPort)) }()
	}
	t.Cleanup(func() {
		for _, fd := range fds {
			_ = unix.Shutdown(fd, unix.SHUT_RDWR) // ends the wait
		}
		for range fds {
			<-returned //nolint:errcheck // each connect() ends with an error
		}
	})
	for _, fd := range fds {
		waitForState(t, fd, unix.BPF_TCP_SYN_SENT)
	}
}

func waitForState(t *testing.T, fd int, state uint8) {
	t.Helper()
	for range 1000 {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			t.Fatal(err)
		}
		if info.State == state {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("socket did not get into state %d", state)
}

// Connects that wait for their peer take no return probe.
func TestConnectsThatWaitDoNotHideOthers(t *testing.T) {
	calls, _ := manyCalls(t)
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		requireConnects(t, tr)
		waiting, ns := kerneltest.New(t), newCramped(t)
		tg := targets(t, ns)[0]
		waitInConnect(t, waiting, tg, calls)
		watchOnly(t, tr, ns)
		netns := uint32(ns.Inode())
		before := countsOf(t, tr, netns)
		ns.Do(t, func() {
			tg.listen(t)
			tg.mustExhaust(t)
		})
		want := map[Key]uint64{tg.connectKey(netns, unix.EADDRNOTAVAIL): 1}
		if got := grown(before, countsOf(t, tr, netns)); !maps.Equal(got, want) {
			t.Errorf("counted %+v, want %+v", got, want)
		}
		checkStats(t, tr)
	})
}

// saysMissed tells whether the kernel says how many returns a kprobe missed.
func saysMissed(t *testing.T) bool { return kerneltest.KernelAtLeast(t, 6, 7) }

// With kprobes, failed binds that wait at the same time are missed where there are more than the
// kernel has return probes. The tracer says how many, and sees the next ones.
func TestBindsThatWaitAtTheSameTime(t *testing.T) {
	calls, probes := manyCalls(t)
	eachNewTracer(t, func(t *testing.T, tr *Tracer) {
		ns := kerneltest.New(t)
		watchOnly(t, tr, ns, testPort)
		netns := uint32(ns.Inode())
		before := countsOf(t, tr, netns)
		page := newLatePage(t)
		returned := make(chan error, calls)
		for range calls {
			go func() {
				returned <- ns.Run(func() error {
					fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
					if err != nil {
						return err
					}
					defer unix.Close(fd)
					return bindRaw(fd, page.memory[:unix.SizeofSockaddrInet4])
				})
			}()
		}
		for range calls {
			page.waitForFault(t)
		}
		elsewhere := sockaddrOf(netip.MustParseAddr("192.0.2.1"), testPort)
		page.fill(t, elsewhere)
		for range calls {
			if err := <-returned; !errors.Is(err, unix.EADDRNOTAVAIL) {
				t.Fatalf("bind: want EADDRNOTAVAIL, got %v", err)
			}
		}
		counted, missed := calls, 0
		if tr.Mode() == ModeKprobe {
			counted, missed = probes, calls-probes
		}
		key := Key{Netns: netns, Port: testPort, Family: sock.FamilyIPv4, Protocol: sock.TCP, Errno: unix.EADDRNOTAVAIL}
		if got := grown(before, countsOf(t, tr, netns)); !maps.Equal(got, map[Key]uint64{key: uint64(counted)}) {
			t.Errorf("counted %+v, want %d of %+v", got, counted, key)
		}
		if !saysMissed(t) {
			missed = 0
		}
		if s, err := tr.Stats(); err != nil || s.Missed != uint64(missed) || s.Unattributed != 0 {
			t.Errorf("stats %+v, %v: want %d missed", s, err, missed)
		}
		runStorm(t, ns, 1, calls, 1)
		if got := grown(before, countsOf(t, tr, netns)); got[key] != uint64(counted+calls) {
			t.Errorf("then counted %+v, want %d", got, counted+calls)
		}
	})
}

// TCP Fast Open connects in sendto(): the same functions of the kernel look for a port.
func TestFastOpenInSendtoIsNotCounted(t *testing.T) {
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		requireConnects(t, tr)
		ns := newCramped(t)
		watchOnly(t, tr, ns)
		tg := targets(t, ns)[0]
		ns.Do(t, func() {
			tg.listen(t)
			tg.mustExhaust(t)
		})
		netns := uint32(ns.Inode())
		before := countsOf(t, tr, netns)
		ns.Do(t, func() {
			to := &unix.SockaddrInet4{Port: testPort, Addr: tg.local.As4()}
			if err := unix.Sendto(tg.open(t), []byte("x"), unix.MSG_FASTOPEN, to); !errors.Is(err, unix.EADDRNOTAVAIL) {
				t.Fatalf("sendto: want EADDRNOTAVAIL, got %v", err)
			}
		})
		if got := grown(before, countsOf(t, tr, netns)); len(got) != 0 {
			t.Errorf("counted %+v, want nothing", got)
		}
	})
}

// traceWithoutFexit prints the mode of a tracer where bpf(2) does not attach fexit programs.
func traceWithoutFexit([]string) error {
	runtime.LockOSThread() // the filter is the thread's
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // seccomp_data.nr
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_BPF, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 16}, // seccomp_data.args[0]
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.BPF_RAW_TRACEPOINT_OPEN, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&prog)), 0, 0); err != nil {
		return err
	}
	tr, err := New(Options{})
	if err != nil {
		return err
	}
	fmt.Print(tr.Mode())
	return errors.Join(tr.ConnectsErr(), tr.Close())
}

func TestKprobesComeBeforeTracepoints(t *testing.T) {
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		if tr.Mode() == ModeFexit {
			return
		}
		_, err := os.Stat("/sys/bus/event_source/devices/kprobe/type")
		want := ModeKprobe
		if err != nil {
			want = ModeTracepoint
		}
		out, err := roleCommand("no-fexit").Output()
		if err != nil || string(out) != want.String() {
			t.Errorf("without fexit the mode is %q, want %q: %v", out, want, err)
		}
	})
}
