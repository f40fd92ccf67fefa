//go:build linux

package bindtrace

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/loaderr"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/mounts"
	"sockstate_exporter/internal/kerneltest/reexec"
	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/sock"
)

const (
	modeEnv = "SOCKSTATE_BINDTRACE_MODE"
	nobody  = 65534
)

// inKernel has the ids of the kernel objects of a tracer.
type inKernel struct {
	Programs []ebpf.ProgramID
	Maps     []ebpf.MapID
	Links    []link.ID
}

func (t *Tracer) inKernel() (inKernel, error) {
	var k inKernel
	for _, p := range t.programs {
		info, err := p.Info()
		if err != nil {
			return k, err
		}
		id, _ := info.ID()
		k.Programs = append(k.Programs, id)
		maps, _ := info.MapIDs()
		k.Maps = append(k.Maps, maps...)
	}
	slices.Sort(k.Maps)
	k.Maps = slices.Compact(k.Maps)
	for _, l := range t.links {
		info, err := l.Info()
		if err != nil {
			return k, err
		}
		k.Links = append(k.Links, info.ID)
	}
	return k, nil
}

// there returns the ids that the kernel still has. The kernel frees objects after an RCU grace
// period, so it waits for a while.
func (k inKernel) there(t *testing.T) (still []string) {
	t.Helper()
	exists := func(c io.Closer, err error) bool {
		if err == nil {
			c.Close()
			return true
		}
		if !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		return false
	}
	for range 100 {
		runtime.GC() // unmaps
		still = nil
		for _, id := range k.Links {
			if l, err := link.NewFromID(id); exists(l, err) {
				still = append(still, fmt.Sprint("link ", id))
			}
		}
		for _, id := range k.Programs {
			if p, err := ebpf.NewProgramFromID(id); exists(p, err) {
				still = append(still, fmt.Sprint("program ", id))
			}
		}
		for _, id := range k.Maps {
			if m, err := ebpf.NewMapFromID(id); exists(m, err) {
				still = append(still, fmt.Sprint("map ", id))
			}
		}
		if len(still) == 0 {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return still
}

func TestCloseLeavesNothingInTheKernel(t *testing.T) {
	eachNewTracer(t, func(t *testing.T, tr *Tracer) {
		k, err := tr.inKernel()
		if err != nil {
			t.Fatal(err)
		}
		if len(k.Programs) < 2 || len(k.Maps) < 5 || len(k.Links) < 2 {
			t.Fatalf("the tracer has %+v", k)
		}
		reading := make(chan error)
		go func() {
			for {
				if err := tr.Read(time.Time{}, new(Event)); err != nil {
					reading <- err
					return
				}
			}
		}()
		time.Sleep(10 * time.Millisecond) // likely inside epoll_wait
		if err := tr.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-reading; !errors.Is(err, os.ErrClosed) {
			t.Errorf("waiting Read: want %v, got %v", os.ErrClosed, err)
		}
		if still := k.there(t); still != nil {
			t.Errorf("after Close there are %v", still)
		}
		for name, call := range map[string]func() error{
			"Counts":   func() error { _, err := tr.Counts(nil); return err },
			"Stats":    func() error { _, err := tr.Stats(); return err },
			"SetWatch": func() error { return tr.SetWatch(nil, nil) },
			"Read":     func() error { return tr.Read(time.Time{}, new(Event)) },
		} {
			if err := call(); !errors.Is(err, os.ErrClosed) {
				t.Errorf("%s after Close: want %v, got %v", name, os.ErrClosed, err)
			}
		}
	})
}

// traceUntilKilled attaches in the mode of modeEnv, prints its inKernel, and
// waits.
func traceUntilKilled([]string) error {
	tr, err := newInRole()
	if err != nil {
		return err
	}
	k, err := tr.inKernel()
	if err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(k); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin) // until the test ends
	return errors.Join(err, tr.Close())
}

func newInRole() (*Tracer, error) {
	mode, err := strconv.Atoi(os.Getenv(modeEnv))
	if err != nil {
		return nil, err
	}
	return New(Options{Mode: Mode(mode)})
}

func modeEnvOf(mode Mode) string { return modeEnv + "=" + strconv.Itoa(int(mode)) }

func TestKilledTracerLeavesNothingInTheKernel(t *testing.T) {
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		cmd := roleCommand("trace", modeEnvOf(tr.Mode()))
		_, stdout := reexec.StartPiped(t, cmd)
		defer func() { _, _ = cmd.Process.Kill(), cmd.Wait() }()
		var k inKernel
		if err := json.NewDecoder(stdout).Decode(&k); err != nil {
			t.Fatal(err)
		}
		if len(k.Programs) < 2 || len(k.Links) < 2 {
			t.Fatalf("the tracer has %+v", k)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if still := k.there(t); still != nil {
			t.Errorf("after SIGKILL there are %v", still)
		}
	})
}

// A report is the output of traceWithoutCaps and traceWithoutTracefs.
type report struct {
	Reason  string // of the UnavailableError, or empty
	Error   string
	Counted uint64 // own failures seen without any capability
}

func (r report) print() error { return json.NewEncoder(os.Stdout).Encode(r) }

// reportOf makes the report for an error of New. It returns any other error.
func reportOf(err error) (report, error) {
	var unavailable *sock.UnavailableError
	if !errors.As(err, &unavailable) {
		return report{}, err
	}
	return report{Reason: unavailable.Reason, Error: err.Error()}, nil
}

// traceWithoutCaps attaches, drops its capabilities, and then uses everything that a tracer can do.
func traceWithoutCaps([]string) error {
	runtime.LockOSThread() // capabilities are the thread's
	tr, err := newInRole()
	if err != nil {
		r, err := reportOf(err)
		if err != nil {
			return err
		}
		return r.print()
	}
	if err := tr.ConnectsErr(); err != nil {
		return fmt.Errorf("connect is not traced: %w", err)
	}
	if err := tr.CapturesErr(); err != nil {
		return fmt.Errorf("blockers are not captured: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	_, inode, err := linux.OwnNetNS()
	if err != nil {
		return err
	}
	own := uint32(inode)
	if err := tr.SetWatch([]uint32{own, own + 1}, []Port{{Netns: own, Number: 443}}); err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: 443}); !errors.Is(err, unix.EACCES) {
		return fmt.Errorf("bind: want EACCES, got %v", err)
	}
	var e Event
	for e.PID != uint32(os.Getpid()) {
		if err := tr.Read(time.Now().Add(10*time.Second), &e); err != nil {
			return err
		}
	}
	if _, err := tr.Stats(); err != nil {
		return err
	}
	counts, err := tr.Counts(nil)
	if err != nil {
		return err
	}
	var r report
	want := Key{Netns: own, Port: 443, Family: sock.FamilyIPv4, Protocol: sock.UDP, Errno: unix.EACCES}
	for _, c := range counts {
		if c.Key == want {
			r.Counted = c.N
		}
	}
	return errors.Join(r.print(), tr.Close())
}

// runReport runs a role and decodes what it reports.
func runReport(t *testing.T, cmd interface{ Output() ([]byte, error) }) report {
	t.Helper()
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("%v: %s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("%v: %q", err, out)
	}
	return r
}

// A capabilitySet has the reason that is expected where a capability is missing.
type capabilitySet map[uintptr]string

// documentedCaps are what the package's documentation asks for.
func documentedCaps(mode Mode) capabilitySet {
	switch {
	case mode == ModeFexit:
		return capabilitySet{unix.CAP_BPF: sock.ReasonCapBPF, unix.CAP_PERFMON: sock.ReasonCapPerfmon}
	case mode == ModeKprobe && loaderr.PerfParanoid() > 2:
		return capabilitySet{
			unix.CAP_BPF: "", unix.CAP_PERFMON: "", unix.CAP_SYS_ADMIN: sock.ReasonPerfParanoid,
		}
	case mode == ModeKprobe:
		return capabilitySet{unix.CAP_BPF: sock.ReasonCapBPF, unix.CAP_PERFMON: sock.ReasonCapPerfmon}
	case loaderr.PerfParanoid() > 2:
		// CAP_SYS_ADMIN includes the other two.
		return capabilitySet{
			unix.CAP_BPF: "", unix.CAP_PERFMON: "",
			unix.CAP_SYS_ADMIN: sock.ReasonPerfParanoid, unix.CAP_DAC_READ_SEARCH: sock.ReasonTracefsDenied,
		}
	default:
		return capabilitySet{
			unix.CAP_BPF: sock.ReasonCapBPF, unix.CAP_PERFMON: sock.ReasonCapPerfmon,
			unix.CAP_DAC_READ_SEARCH: sock.ReasonTracefsDenied,
		}
	}
}

// traceWith traces as an ordinary user with all but one of the capabilities.
func traceWith(t *testing.T, ns *kerneltest.NetNS, mode Mode, caps capabilitySet, without uintptr) report {
	t.Helper()
	var ambient []uintptr
	for c := range caps {
		if c != without {
			ambient = append(ambient, c)
		}
	}
	cmd := ns.Command(t, "/proc/self/exe")
	cmd.Env = reexec.RoleEnv("caps", modeEnvOf(mode))
	cmd.SysProcAttr = &syscall.SysProcAttr{AmbientCaps: ambient}
	return runReport(t, cmd.As(nobody, nobody))
}

// An ordinary user with exactly the documented capabilities can attach, and needs none of them
// afterwards. Where one is missing, it is the reason.
func TestCapabilitiesAreTheDocumentedOnes(t *testing.T) {
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		ns := kerneltest.New(t)
		for _, level := range paranoidLevels(tr.Mode()) {
			setPerfParanoid(t, level)
			caps := documentedCaps(tr.Mode())
			const none = ^uintptr(0)
			if r := traceWith(t, ns, tr.Mode(), caps, none); r.Reason != "" || r.Counted != 1 {
				t.Errorf("perf_event_paranoid %d, with all: counted %d, unavailable %q: %s", level, r.Counted, r.Reason, r.Error)
			}
			for c, reason := range caps {
				r := traceWith(t, ns, tr.Mode(), caps, c)
				if r.Reason != reason {
					t.Errorf("perf_event_paranoid %d, without capability %d: reason %q (%s), want %q", level, c, r.Reason, r.Error, reason)
				}
			}
		}
	})
}

// paranoidLevels returns the values of kernel.perf_event_paranoid to test. Only a guest may change
// it.
func paranoidLevels(mode Mode) []int {
	if mode != ModeFexit && os.Getenv("SOCKSTATE_GUEST") == "1" {
		return []int{2, 3}
	}
	return []int{loaderr.PerfParanoid()}
}

func setPerfParanoid(t *testing.T, level int) {
	t.Helper()
	before := loaderr.PerfParanoid()
	if before == level {
		return
	}
	const path = "/proc/sys/kernel/perf_event_paranoid"
	if err := os.WriteFile(path, []byte(strconv.Itoa(level)), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(path, []byte(strconv.Itoa(before)), 0); err != nil {
			t.Error(err)
		}
	})
}

// traceWithoutTracefs unmounts tracefs in its own mount namespace first.
func traceWithoutTracefs([]string) error {
	if err := mounts.UnmountTracefs(); err != nil {
		return err
	}
	_, err := newInRole()
	if err == nil {
		return errors.New("attached without tracefs")
	}
	r, err := reportOf(err)
	if err != nil {
		return err
	}
	return r.print()
}

// Programs that do not see the probe do not count as attached.
func TestBlindTracerIsNotProven(t *testing.T) {
	eachNewTracer(t, func(t *testing.T, tr *Tracer) {
		for _, l := range slices.Backward(tr.links) {
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}
		tr.links = nil
		// The probes of New were seen.
		if err := tr.test(new(probe), true); err != nil {
			t.Fatal(err)
		}
		for name, seen := range map[string]*ebpf.Variable{
			"bind": tr.objects.ProbesSeen, "connect": tr.objects.ConnectProbesSeen,
		} {
			if err := seen.Set(uint64(0)); err != nil {
				t.Fatal(err)
			}
			err := tr.test(new(probe), true)
			if err == nil || unavailable(bindTracing, tr.Mode(), err).Reason != sock.ReasonNothingSeen {
				t.Errorf("%s: want reason %q, got %v", name, sock.ReasonNothingSeen, err)
			}
			if err := seen.Set(uint64(1)); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestMissingTracefsIsToldWithTheCommand(t *testing.T) {
	kerneltest.RequireRoot(t)
	cmd := roleCommand("no-tracefs", modeEnvOf(ModeTracepoint))
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	r := runReport(t, cmd)
	if r.Reason != sock.ReasonNoTracefs || !strings.Contains(r.Error, "mount -t tracefs tracefs /sys/kernel/tracing") {
		t.Errorf("reason %q: %s", r.Reason, r.Error)
	}
}

func TestOrdinaryUserIsToldWhatIsMissing(t *testing.T) {
	kerneltest.RequireRoot(t)
	cmd := roleCommand("caps", modeEnvOf(ModeAuto))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if r := runReport(t, cmd); r.Reason != sock.ReasonCapBPF {
		t.Errorf("reason %q: %s, want %q", r.Reason, r.Error, sock.ReasonCapBPF)
	}
}
