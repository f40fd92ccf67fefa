//go:build linux

package bindtrace

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bindtrace/slots"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/mounts"
	"sockstate_exporter/internal/kerneltest/reexec"
	"sockstate_exporter/internal/kerneltest/tracers"
	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/sock"
)

// modesEnv names the modes that must work on this kernel, "fexit,kprobe,tracepoint". Others are not tried.
// Where it is not set, each mode that works is tested.
const modesEnv = "SOCKSTATE_BPF_MODES"

// TestMain runs the tests in a mount namespace of their own that has tracefs.
func TestMain(m *testing.M) {
	reexec.Play(roles())
	mounts.PrivateTracefs()
	kerneltest.Main(m)
}

// roles are the processes that tests start.
func roles() map[string]func(args []string) error {
	return map[string]func(args []string) error{
		"storm":      storm,
		"storm-unix": stormUnix,

		"fail-in-every-way": failInEveryWay,
		"in-user-namespace": startInUserNamespace,
		"fail-when-told":    failWhenTold,
		"fail-at-once":      failAtOnce,
		"fail-on-thread":    failOnThread,
		"fail-beside-test":  failBesideTest,

		"bind-low":      bindLow,
		"connect-storm": connectStorm,
		"trace":         traceUntilKilled,
		"caps":          traceWithoutCaps,
		"no-tracefs":    traceWithoutTracefs,
		"no-fexit":      traceWithoutFexit,
	}
}

// roleCommand prepares this binary in a role.
func roleCommand(role string, env ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = reexec.RoleEnv(role, env...)
	return cmd
}

// requiredModes are the modes that modesEnv names, and whether it is set.
func requiredModes() ([]string, bool) {
	value, set := os.LookupEnv(modesEnv)
	return strings.Split(value, ","), set
}

// eachMode runs f with a tracer of each mode. Tests with the zero options share the tracers, since
// some kernels take seconds to load one.
func eachMode(t *testing.T, opts Options, f func(t *testing.T, tr *Tracer)) {
	start := newTracer
	if opts == (Options{}) {
		start = sharedTracer
	}
	inEachMode(t, opts, start, f)
}

// eachNewTracer is eachMode for tests that close the tracer, or fill it.
func eachNewTracer(t *testing.T, f func(t *testing.T, tr *Tracer)) {
	inEachMode(t, Options{}, newTracer, f)
}

func inEachMode(t *testing.T, opts Options, start func(*testing.T, Options) (*Tracer, error), f func(t *testing.T, tr *Tracer)) {
	kerneltest.RequireRoot(t)
	if opts.maxDetails == 0 {
		opts.maxDetails = slots.SlotCounts
	}
	required, set := requiredModes()
	for _, mode := range []Mode{ModeFexit, ModeKprobe, ModeTracepoint} {
		if set && !slices.Contains(required, mode.String()) {
			t.Logf("%s is not in %s", mode, modesEnv)
			continue
		}
		t.Run(mode.String(), func(t *testing.T) {
			tracers.Share(t)
			loadSCTP()
			opts := opts
			opts.Mode = mode
			tr, err := start(t, opts)
			var unavailable *sock.UnavailableError
			if errors.As(err, &unavailable) && !set {
				kerneltest.Skip(t, "%v", err)
			}
			if err != nil {
				t.Fatal(err)
			}
			f(t, tr)
		})
	}
}

func newTracer(t *testing.T, opts Options) (*Tracer, error) {
	tr, err := New(opts)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() {
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
	})
	return tr, nil
}

// sharedTracers end with the process.
var sharedTracers = make(map[Mode]*Tracer)

// sharedTracer returns a tracer that watches what a new one does, and has no events left. It may have
// counts of other tests.
func sharedTracer(_ *testing.T, opts Options) (*Tracer, error) {
	tr := sharedTracers[opts.Mode]
	if tr == nil {
		var err error
		if tr, err = New(opts); err != nil {
			return nil, err
		}
		sharedTracers[opts.Mode] = tr
	}
	_, own, err := linux.OwnNetNS()
	if err != nil {
		return nil, err
	}
	if err := tr.SetWatch([]uint32{uint32(own)}, nil); err != nil {
		return nil, err
	}
	for err == nil {
		err = tr.Read(time.Now(), new(Event))
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, err
	}
	// The number of a namespace that is gone may be the next one's.
	if err := forgetUsers(tr); err != nil {
		return nil, err
	}
	earlier[tr], err = tr.Stats()
	return tr, err
}

// forgetUsers gives each user all events of a second again.
func forgetUsers(tr *Tracer) error {
	for {
		var user bpfUser
		switch err := tr.objects.Users.NextKey(nil, &user); {
		case errors.Is(err, ebpf.ErrKeyNotExist):
			return nil
		case err != nil:
			return err
		}
		if err := tr.objects.Users.Delete(user); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
	}
}

// earlier is what a shared tracer did not see in earlier tests.
var earlier = make(map[*Tracer]Stats)

// loadSCTP makes the kernel load the module, if there is one: a kprobe needs its functions.
func loadSCTP() {
	if fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP); err == nil {
		_ = unix.Close(fd)
	}
}

// watchOnly makes the tracer watch one namespace, and some ports there and in namespaces that are not
// watched.
func watchOnly(t *testing.T, tr *Tracer, ns *kerneltest.NetNS, ports ...uint16) {
	t.Helper()
	var watch []Port
	for _, p := range ports {
		watch = append(watch, Port{Netns: uint32(ns.Inode()), Number: p}, Port{Number: p})
	}
	if err := tr.SetWatch([]uint32{uint32(ns.Inode())}, watch); err != nil {
		t.Fatal(err)
	}
}

// countsOf returns the counts of one namespace. The host may have failures of its own in others.
func countsOf(t *testing.T, tr *Tracer, netns uint32) map[Key]uint64 {
	t.Helper()
	all, err := tr.Counts(nil)
	if err != nil {
		t.Fatal(err)
	}
	of := make(map[Key]uint64)
	for _, c := range all {
		if c.Key.Netns != netns {
			continue
		}
		if of[c.Key] != 0 {
			t.Errorf("key %+v came twice", c.Key)
		}
		of[c.Key] = c.N
	}
	return of
}

// grown returns the counts that are higher in after than in before.
func grown(before, after map[Key]uint64) map[Key]uint64 {
	diff := make(map[Key]uint64)
	for k, n := range after {
		if n != before[k] {
			diff[k] = n - before[k]
		}
	}
	return diff
}

func total(counts map[Key]uint64) (sum uint64) {
	for _, n := range counts {
		sum += n
	}
	return sum
}
