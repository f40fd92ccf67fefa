package privilege

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	libcap "kernel.org/pub/linux/libs/security/libcap/cap"

	"sockstate_exporter/internal/kerneltest"
)

const childEnv = "SOCKSTATE_TEST_PRIVILEGE_CHILD"

// Giving up capabilities is for good, so a child does it.
func TestMain(m *testing.M) {
	if os.Getenv(childEnv) == "" {
		kerneltest.Main(m)
	}
	names, err := Keep(libcap.NET_ADMIN, libcap.SYS_PTRACE)
	fmt.Println("kept", strings.Join(names, " "), err)
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
			if strings.HasPrefix(line, "CapEff") || strings.HasPrefix(line, "CapPrm") {
				fmt.Println(line)
			}
		}
	}
	os.Exit(0)
}

func TestKeepLeavesOnlyWhatWasAskedForInEveryThread(t *testing.T) {
	current := libcap.GetProc()
	for _, v := range []libcap.Value{libcap.NET_ADMIN, libcap.SYS_PTRACE} {
		if has, err := current.GetFlag(libcap.Effective, v); err != nil || !has {
			kerneltest.Skip(t, "needs %v (%v)", v, err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childEnv+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if lines[0] != "kept CAP_NET_ADMIN CAP_SYS_PTRACE <nil>" || len(lines) < 3 {
		t.Fatalf("child said\n%s", out)
	}
	for _, line := range lines[1:] {
		if !strings.HasSuffix(line, "\t0000000000081000") {
			t.Errorf("a thread has %q, want bits %d and %d only", line, libcap.NET_ADMIN, libcap.SYS_PTRACE)
		}
	}
}
