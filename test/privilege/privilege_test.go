package privilege

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/elastic/go-seccomp-bpf"
	"golang.org/x/sys/unix"
	libcap "kernel.org/pub/linux/libs/security/libcap/cap"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/privilege"
)

// childEnv makes this binary the child. Its value is a system call that a seccomp filter refuses.
const (
	childEnv = "SOCKSTATE_TEST_PRIVILEGE_CHILD"
	noFilter = "none"
)

// Capabilities that are given up do not come back, so a child gives them up.
func TestMain(m *testing.M) {
	if os.Getenv(childEnv) == "" {
		kerneltest.Main(m)
	}
	if err := refuse(os.Getenv(childEnv)); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	left, err := privilege.Keep(libcap.NET_ADMIN, libcap.SYS_PTRACE)
	fmt.Println("left", strings.Join(left.Capabilities, " "), left.NoNewPrivs, left.Bounding, err)
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		fmt.Println(err)
	}
	for _, task := range tasks {
		status, err := os.ReadFile("/proc/self/task/" + task.Name() + "/status")
		if err != nil {
			continue // a thread that ended meanwhile
		}
		for _, line := range strings.Split(string(status), "\n") {
			if strings.HasPrefix(line, "Cap") || strings.HasPrefix(line, "NoNewPrivs") {
				fmt.Println(line)
			}
		}
	}
	os.Exit(0)
}

// refuse makes seccomp refuse a system call for all threads: capset, or prctl(PR_SET_NO_NEW_PRIVS).
func refuse(call string) error {
	if call == noFilter {
		return nil
	}
	group := seccomp.SyscallGroup{Action: seccomp.ActionErrno, Names: []string{call}} // EPERM
	if call == "prctl" {
		group.Names, group.NamesWithCondtions = nil, []seccomp.NameWithConditions{{
			Name: call, Conditions: seccomp.ArgumentConditions{{Argument: 0, Operation: seccomp.Equal, Value: unix.PR_SET_NO_NEW_PRIVS}},
		}}
	}
	return seccomp.LoadFilter(seccomp.Filter{
		NoNewPrivs: libcap.GetProc().String() == "=", // else it is for the test to see who sets it
		Flag:       seccomp.FilterFlagTSync,
		Policy:     seccomp.Policy{DefaultAction: seccomp.ActionAllow, Syscalls: []seccomp.SyscallGroup{group}},
	})
}

// child runs this binary, which gives up what it does not want, and returns the status of its threads.
func child(t *testing.T, as *syscall.SysProcAttr, refused string) (said string, threads []string) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe") // the file may lie where others cannot go
	cmd.Env, cmd.Dir, cmd.SysProcAttr = append(os.Environ(), childEnv+"="+refused, "GORACE=atexit_sleep_ms=0"), "/", as
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	const sets = 6 // CapInh, CapPrm, CapEff, CapBnd, CapAmb, NoNewPrivs
	if len(lines) < 2*sets {
		t.Fatalf("want several threads:\n%s", out)
	}
	return lines[0], lines[1:]
}

// nobody is an ordinary user with these capabilities.
func nobody(caps ...uintptr) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}, AmbientCaps: caps}
}

func wantInEveryThread(t *testing.T, threads []string, want map[string]string) {
	t.Helper()
	for _, line := range threads {
		name, value, _ := strings.Cut(line, ":\t")
		if w, ok := want[name]; ok && value != w {
			t.Errorf("a thread has %s %s, want %s", name, value, w)
		}
	}
}

func require(t *testing.T, caps ...libcap.Value) {
	t.Helper()
	current := libcap.GetProc()
	for _, v := range caps {
		if has, err := current.GetFlag(libcap.Effective, v); err != nil || !has {
			kerneltest.Skip(t, "needs %v (%v)", v, err)
		}
	}
}

const (
	none    = "0000000000000000"
	allowed = "0000000000081000" // CAP_NET_ADMIN (12) and CAP_SYS_PTRACE (19)
)

func TestKeepLeavesOnlyWhatWasAskedForInEveryThread(t *testing.T) {
	require(t, libcap.NET_ADMIN, libcap.SYS_PTRACE, libcap.SETPCAP)
	said, threads := child(t, nil, noFilter)
	if want := "left CAP_NET_ADMIN CAP_SYS_PTRACE <nil> <nil> <nil>"; said != want {
		t.Errorf("child said %q, want %q", said, want)
	}
	wantInEveryThread(t, threads, map[string]string{
		"CapInh": none, "CapPrm": allowed, "CapEff": allowed, "CapBnd": none, "CapAmb": none, "NoNewPrivs": "1",
	})
}

func TestBoundingSetStaysWithoutTheCapabilityAndThatIsSaid(t *testing.T) {
	kerneltest.RequireRoot(t)
	said, threads := child(t, nobody(uintptr(libcap.SYS_PTRACE), uintptr(libcap.CHOWN)), noFilter)
	if want := "left CAP_SYS_PTRACE <nil> drop cap_chown from the bounding set: operation not permitted <nil>"; said != want {
		t.Errorf("child said %q, want %q", said, want)
	}
	const ptrace = "0000000000080000"
	wantInEveryThread(t, threads, map[string]string{"CapInh": none, "CapPrm": ptrace, "CapEff": ptrace, "CapAmb": none, "NoNewPrivs": "1"})
	for _, line := range threads {
		if line == "CapBnd:\t"+none {
			t.Error("the bounding set is empty, and the child said it is not")
		}
	}
}

func TestNothingToGiveUpIsNoError(t *testing.T) {
	kerneltest.RequireRoot(t)
	said, threads := child(t, nobody(), noFilter)
	if want := "left  <nil> drop cap_chown from the bounding set: operation not permitted <nil>"; said != want {
		t.Errorf("child said %q, want %q", said, want)
	}
	wantInEveryThread(t, threads, map[string]string{"CapPrm": none, "CapEff": none, "NoNewPrivs": "1"})
}

func TestRefusedNoNewPrivsIsSaidAndCapabilitiesAreGivenUpAllTheSame(t *testing.T) {
	kerneltest.RequireRoot(t)
	require(t, libcap.NET_ADMIN, libcap.SYS_PTRACE, libcap.SETPCAP)
	said, threads := child(t, nil, "prctl")
	if want := "left CAP_NET_ADMIN CAP_SYS_PTRACE set no_new_privs: operation not permitted <nil> <nil>"; said != want {
		t.Errorf("child said %q, want %q", said, want)
	}
	wantInEveryThread(t, threads, map[string]string{"CapPrm": allowed, "CapEff": allowed, "CapBnd": none, "NoNewPrivs": "0"})
}

func TestRefusedCapsetIsAnErrorWhereThereIsSomethingToGiveUp(t *testing.T) {
	kerneltest.RequireRoot(t)
	said, threads := child(t, nil, "capset")
	if want := "left CAP_NET_ADMIN CAP_SYS_PTRACE <nil> <nil> give up capabilities: operation not permitted"; said != want {
		t.Errorf("child said %q, want %q", said, want)
	}
	wantInEveryThread(t, threads, map[string]string{"CapBnd": none, "NoNewPrivs": "1"})

	said, _ = child(t, nobody(), "capset")
	if want := "left  <nil> drop cap_chown from the bounding set: operation not permitted <nil>"; said != want {
		t.Errorf("child without capabilities said %q, want %q", said, want)
	}
}
