package deploy

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
	libcap "kernel.org/pub/linux/libs/security/libcap/cap"

	"sockstate_exporter/internal/kerneltest"
)

// sandboxEnv holds the sandbox that a test binary is to enter.
const sandboxEnv = "SOCKSTATE_TEST_SANDBOX"

const nobody = 65534

// A sandbox is what systemd makes of the unit, as far as it can be had without systemd as
// init: the user, capabilities, seccomp filters, and mounts that cannot be written to.
// It has no cgroup (DevicePolicy=), and hides neither /home nor devices.
type sandbox struct {
	Ambient, Bounding []libcap.Value
	NoNewPrivs        bool
	Calls             []string // that are allowed
	Errno             unix.Errno
	Families          []uint64 // of addresses that are allowed
	NoNamespaces      bool
	NoExecMemory      bool
	ReadOnly          bool

	Listen bool // file descriptor 4 is a socket of systemd's
	Args   []string
}

// execFD is the program, wherever it lies: ordinary users may not reach it by its path.
const execFD = 3

func newSandbox(t *testing.T, u unit) *sandbox {
	t.Helper()
	s := &sandbox{
		Ambient:      capabilities(t, u.words("AmbientCapabilities")),
		Bounding:     capabilities(t, u.words("CapabilityBoundingSet")),
		NoNewPrivs:   u.yes("NoNewPrivileges"),
		Calls:        allowedCalls(t, u["Service.SystemCallFilter"]),
		NoNamespaces: u.yes("RestrictNamespaces"),
		NoExecMemory: u.yes("MemoryDenyWriteExecute"),
		ReadOnly:     slices.Contains(u.words("ProtectSystem"), "strict") && u.yes("ProtectKernelTunables"),
	}
	if got := u.words("SystemCallErrorNumber"); !slices.Equal(got, []string{"EPERM"}) {
		t.Fatalf("SystemCallErrorNumber is %v; this knows EPERM", got)
	}
	s.Errno = unix.EPERM
	families := map[string]uint64{"AF_INET": unix.AF_INET, "AF_INET6": unix.AF_INET6, "AF_NETLINK": unix.AF_NETLINK, "AF_UNIX": unix.AF_UNIX}
	for _, name := range u.words("RestrictAddressFamilies") {
		family, ok := families[name]
		if !ok {
			t.Fatalf("RestrictAddressFamilies=%s is not known here", name)
		}
		s.Families = append(s.Families, family)
	}
	return s
}

func capabilities(t *testing.T, names []string) []libcap.Value {
	t.Helper()
	var out []libcap.Value
	for _, name := range names {
		v, err := libcap.FromName(strings.ToLower(name))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		out = append(out, v)
	}
	return out
}

// allowedCalls expands an allow list of systemd.exec(5). Calls that the kernel of this
// architecture does not have are left out.
func allowedCalls(t *testing.T, lines []string) []string {
	t.Helper()
	sets := callSets(t)
	known, err := arch.GetInfo("")
	if err != nil {
		kerneltest.Skip(t, "system calls of this architecture: %v", err)
	}
	allowed := make(map[string]bool)
	var set func(name string, to bool)
	set = func(name string, to bool) {
		if name[0] != '@' {
			allowed[name] = to
			return
		}
		if len(sets[name]) == 0 {
			t.Fatalf("no system calls in %s", name)
		}
		for _, of := range sets[name] {
			set(of, to)
		}
	}
	set("@default", true) // of every allow list
	for n, line := range lines {
		line, deny := strings.CutPrefix(line, "~")
		if n == 0 && deny {
			t.Fatal("SystemCallFilter= is not an allow list")
		}
		for _, name := range strings.Fields(line) {
			set(name, !deny)
		}
	}
	var out []string
	for name, ok := range allowed {
		if _, exists := known.SyscallNames[name]; ok && exists {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// callSets are the groups that systemd knows, by name.
func callSets(t *testing.T) map[string][]string {
	t.Helper()
	out, err := exec.Command(kerneltest.RequireCommand(t, "systemd-analyze"), "syscall-filter").Output()
	if err != nil {
		t.Fatal(err)
	}
	sets := make(map[string][]string)
	group := ""
	for line := range strings.Lines(string(out)) {
		word := strings.TrimSpace(line)
		switch {
		case word == "" || word[0] == '#':
		case line[0] == '@':
			group = word
		default:
			sets[group] = append(sets[group], word)
		}
	}
	return sets
}

// command prepares a program that ns and the sandbox hold.
func (s *sandbox) command(t *testing.T, ns *kerneltest.NetNS, program string, args ...string) *kerneltest.Cmd {
	t.Helper()
	kerneltest.RequireRoot(t)
	s.Args = append([]string{program}, args...)
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	cmd := ns.Command(t, "/proc/self/exe")
	cmd.Env = append(os.Environ(), sandboxEnv+"="+string(text))
	cmd.ExtraFiles = []*os.File{f}
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	return cmd
}

// enterSandbox makes this process what the sandbox is for. It returns only an error.
func enterSandbox() error {
	var s sandbox
	if err := json.Unmarshal([]byte(os.Getenv(sandboxEnv)), &s); err != nil {
		return err
	}
	if s.ReadOnly {
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &attr); err != nil {
			return fmt.Errorf("make mounts read-only: %w", err)
		}
	}
	if err := s.enterUser(); err != nil {
		return err
	}
	if err := s.enterFilters(); err != nil {
		return err
	}
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, sandboxEnv+"=") })
	if s.Listen {
		env = append(env, "LISTEN_FDS=1", "LISTEN_PID="+strconv.Itoa(os.Getpid()))
		// The program moves out of the way: systemd's first descriptor is 3.
		if err := unix.Dup3(execFD, 5, unix.O_CLOEXEC); err != nil {
			return err
		}
		if err := unix.Dup3(4, 3, 0); err != nil {
			return err
		}
		return fmt.Errorf("exec: %w", syscall.Exec("/proc/self/fd/5", s.Args, env))
	}
	return fmt.Errorf("exec: %w", syscall.Exec(fmt.Sprintf("/proc/self/fd/%d", execFD), s.Args, env))
}

// enterUser becomes an ordinary user, with these capabilities.
func (s *sandbox) enterUser() error {
	iab := libcap.NewIAB()
	for v := range libcap.MaxBits() {
		err := errors.Join(
			iab.SetVector(libcap.Amb, slices.Contains(s.Ambient, v), v),
			// Of this vector a set bit is one that is taken away.
			iab.SetVector(libcap.Bound, !slices.Contains(s.Bounding, v), v),
		)
		if err != nil {
			return fmt.Errorf("%v: %w", v, err)
		}
	}
	if err := libcap.SetGroups(nobody); err != nil {
		return fmt.Errorf("set groups: %w", err)
	}
	if err := libcap.SetUID(nobody); err != nil {
		return fmt.Errorf("set user: %w", err)
	}
	if err := iab.SetProc(); err != nil {
		return fmt.Errorf("set capabilities: %w", err)
	}
	return nil
}

// enterFilters are those of src/shared/seccomp-util.c, one after the other: the kernel takes
// the strictest answer.
func (s *sandbox) enterFilters() error {
	errno := func(e unix.Errno) seccomp.Action { return seccomp.ActionErrno | seccomp.Action(e) }
	denied := func(action seccomp.Action, rules ...seccomp.NameWithConditions) seccomp.Policy {
		return seccomp.Policy{
			DefaultAction: seccomp.ActionAllow,
			Syscalls:      []seccomp.SyscallGroup{{Action: action, NamesWithCondtions: rules}},
		}
	}
	var policies []seccomp.Policy
	if len(s.Families) > 0 {
		rule := seccomp.NameWithConditions{Name: "socket"}
		for _, family := range s.Families {
			rule.Conditions = append(rule.Conditions, seccomp.Condition{Argument: 0, Operation: seccomp.NotEqual, Value: family})
		}
		policies = append(policies, denied(errno(unix.EAFNOSUPPORT), rule))
	}
	if s.NoNamespaces {
		var clones []seccomp.NameWithConditions
		for _, flag := range []uint64{unix.CLONE_NEWCGROUP, unix.CLONE_NEWIPC, unix.CLONE_NEWNET, unix.CLONE_NEWNS, unix.CLONE_NEWPID, unix.CLONE_NEWUSER, unix.CLONE_NEWUTS} {
			clones = append(clones, seccomp.NameWithConditions{Name: "clone", Conditions: seccomp.ArgumentConditions{
				{Argument: 0, Operation: seccomp.BitsSet, Value: flag},
			}})
		}
		policies = append(policies,
			seccomp.Policy{DefaultAction: seccomp.ActionAllow, Syscalls: []seccomp.SyscallGroup{{Action: errno(unix.EPERM), Names: []string{"unshare", "setns"}}}},
			seccomp.Policy{DefaultAction: seccomp.ActionAllow, Syscalls: []seccomp.SyscallGroup{{Action: errno(unix.ENOSYS), Names: []string{"clone3"}}}},
			denied(errno(unix.EPERM), clones...),
		)
	}
	if s.NoExecMemory {
		exec := seccomp.Condition{Argument: 2, Operation: seccomp.BitsSet, Value: unix.PROT_EXEC}
		write := seccomp.Condition{Argument: 2, Operation: seccomp.BitsSet, Value: unix.PROT_WRITE}
		policies = append(policies, denied(errno(unix.EPERM),
			seccomp.NameWithConditions{Name: "mmap", Conditions: seccomp.ArgumentConditions{exec, write}},
			seccomp.NameWithConditions{Name: "mprotect", Conditions: seccomp.ArgumentConditions{exec}},
			seccomp.NameWithConditions{Name: "pkey_mprotect", Conditions: seccomp.ArgumentConditions{exec}},
		))
	}
	// The last one, since it may deny the loading of others.
	policies = append(policies, seccomp.Policy{
		DefaultAction: seccomp.ActionErrno, // EPERM
		Syscalls:      []seccomp.SyscallGroup{{Action: seccomp.ActionAllow, Names: s.Calls}},
	})
	for n := range policies {
		// Without no_new_privs the kernel takes no filter of an ordinary user.
		filter := seccomp.Filter{NoNewPrivs: s.NoNewPrivs, Flag: seccomp.FilterFlagTSync, Policy: policies[n]}
		if err := seccomp.LoadFilter(filter); err != nil {
			return fmt.Errorf("filter %d: %w", n, err)
		}
	}
	return nil
}
