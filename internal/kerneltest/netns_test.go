package kerneltest

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func netnsInode(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func TestDoRunsInsideAndNothingElseDoes(t *testing.T) {
	ns := New(t)
	outside := netnsInode(t, "/proc/self/ns/net")
	if outside == ns.Inode() {
		t.Fatal("the process is inside already")
	}
	// Many at once, so that some begin on the process's first thread.
	var wg sync.WaitGroup
	for range 500 {
		wg.Go(func() {
			ns.Do(t, func() {
				if got := netnsInode(t, "/proc/thread-self/ns/net"); got != ns.Inode() {
					t.Errorf("inside is namespace %d, want %d", got, ns.Inode())
				}
				if unix.Gettid() == unix.Getpid() {
					t.Error("runs on the process's first thread")
				}
			})
		})
	}
	wg.Wait()
	if got := netnsInode(t, "/proc/self/ns/net"); got != outside {
		t.Errorf("the process is in namespace %d, was in %d", got, outside)
	}
	Eventually(t, "threads inside end", func() bool {
		tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
		if err != nil || len(tasks) == 0 {
			t.Fatalf("list threads: %v, %v", tasks, err)
		}
		return !slices.ContainsFunc(tasks, func(task string) bool {
			link, err := os.Readlink(task) // an error: it has ended just now
			return err == nil && link == fmt.Sprintf("net:[%d]", ns.Inode())
		})
	})
}

func TestRunReturnsTheError(t *testing.T) {
	ns := New(t)
	want := errors.New("want")
	if err := ns.Run(func() error { return want }); err != want {
		t.Errorf("error %v, want %v", err, want)
	}
	if err := ns.Run(func() error { runtime.Goexit(); return nil }); err != errExited {
		t.Errorf("error %v, want %v", err, errExited)
	}
}

func TestRunFailsAfterClose(t *testing.T) {
	ns := New(t)
	if err := ns.Close(); err != nil {
		t.Fatal(err)
	}
	if err := ns.Run(func() error { return nil }); !errors.Is(err, unix.EBADF) {
		t.Errorf("error %v, want EBADF", err)
	}
}

func TestSysctlIsTheNamespacesOwn(t *testing.T) {
	const name = "net.ipv4.tcp_max_tw_buckets"
	a, b := New(t), New(t)
	before, err := b.GetSysctl(name)
	if err != nil {
		t.Fatal(err)
	}
	a.Sysctl(t, name, "4711")
	if got, err := a.GetSysctl(name); err != nil || got != "4711" {
		t.Errorf("value %q, %v, want 4711", got, err)
	}
	if got, err := b.GetSysctl(name); err != nil || got != before {
		t.Errorf("value of another namespace is %q, %v, was %q", got, err, before)
	}
}

func TestSetSysctlReportsUnknownName(t *testing.T) {
	if err := New(t).SetSysctl("net.ipv4.no_such_setting", "1"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v, want %v", err, os.ErrNotExist)
	}
}

func TestCommandRunsInside(t *testing.T) {
	ns := New(t)
	cmd := ns.Command(t, "/proc/self/exe")
	cmd.Env = append(os.Environ(), HelperEnv+"=netns")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.TrimSpace(string(out)), fmt.Sprintf("net:[%d] <nil>", ns.Inode()); got != want {
		t.Errorf("command says %q, want %q", got, want)
	}
}

func TestCommandReportsWhatIsNotThere(t *testing.T) {
	err := New(t).Command(t, "/no/such/program").Start()
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v, want %v", err, os.ErrNotExist)
	}
}

func TestCommandIsKilledWhenTheTestEnds(t *testing.T) {
	var pid int
	t.Run("test", func(t *testing.T) {
		cmd := New(t).Command(t, "/proc/self/exe")
		cmd.Env = append(os.Environ(), HelperEnv+"=sleep")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		pid = cmd.Process.Pid
		if !Alive(pid) {
			t.Fatal("process does not run")
		}
	})
	if Alive(pid) {
		t.Errorf("process %d still runs", pid)
	}
}

func TestCommandAsAnotherUser(t *testing.T) {
	RequireRoot(t)
	cmd := New(t).Command(t, "/proc/self/exe").As(65534, 65533)
	cmd.Env = append(os.Environ(), HelperEnv+"=uid")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got := strings.TrimSpace(string(out)); got != "65534 65533" {
		t.Errorf("uid and gid are %q, want 65534 65533", got)
	}
}

// TestMainGivesOrdinaryUsersANamespace runs one test of this binary as a user
// without capabilities.
func TestMainGivesOrdinaryUsersANamespace(t *testing.T) {
	RequireRoot(t)
	cmd := New(t).Command(t, "/proc/self/exe", "-test.v", "-test.run=^TestSysctlIsTheNamespacesOwn$").As(65534, 65534)
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	if err != nil && !strings.Contains(string(out), noUserNS) {
		t.Fatalf("%v\n%s", err, out)
	}
	if strings.Contains(string(out), noUserNS) {
		Skip(t, "ordinary users get no user namespace:\n%s", out)
	}
	if !strings.Contains(string(out), "--- PASS: TestSysctlIsTheNamespacesOwn") {
		t.Errorf("test did not pass:\n%s", out)
	}
}

// verdict is a testing.TB that records what Skip does.
type verdict struct {
	testing.TB
	skipped, failed string
}

func (v *verdict) Helper()                          {}
func (v *verdict) Skipf(format string, args ...any) { v.skipped = fmt.Sprintf(format, args...) }
func (v *verdict) Fatalf(format string, args ...any) {
	v.failed = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func TestSkipFailsWhereAllIsRequired(t *testing.T) {
	skip := func(require string) *verdict {
		t.Setenv(requireAllEnv, require)
		v := new(verdict)
		_ = onThread(func() error { Skip(v, "no %s", "dice"); return nil })
		return v
	}
	if v := skip(""); v.skipped != "no dice" || v.failed != "" {
		t.Errorf("skipped with %q, failed with %q", v.skipped, v.failed)
	}
	if v := skip("1"); v.skipped != "" || v.failed != "cannot run here, and SOCKSTATE_REQUIRE_ALL=1: no dice" {
		t.Errorf("skipped with %q, failed with %q", v.skipped, v.failed)
	}
}

func TestDialContextConnectsInside(t *testing.T) {
	ns, other := New(t), New(t)
	addr := ns.Listen(t, netip.MustParseAddrPort("127.0.0.1:0"), Options{}).Addr().String()
	conn, err := ns.DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if conn, err := other.DialContext(t.Context(), "tcp", addr); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("from another namespace: got %v, error %v, want %v", conn, err, unix.ECONNREFUSED)
	}
}
