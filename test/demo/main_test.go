package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sockstate_exporter/internal/bpf/sockflags"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/test/launch"
)

// asDemo makes the test binary be the demo. Its value marks every process of one.
const asDemo = "SOCKSTATE_TEST_AS_DEMO"

func TestMain(m *testing.M) {
	if os.Getenv(asDemo) != "" {
		main()
		os.Exit(0)
	}
	kerneltest.Main(m)
}

// demo prepares a run of the demo, of an exporter built for it.
func demo(t *testing.T) (cmd *exec.Cmd, mark string) {
	t.Helper()
	kerneltest.RequireNetNS(t)
	binary := filepath.Join(t.TempDir(), "sockstate_exporter")
	launch.Copy(t, binary)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	mark = fmt.Sprintf("%s=%d-%d", asDemo, os.Getpid(), time.Now().UnixNano())
	cmd = exec.Command(self, binary)
	cmd.Env = append(os.Environ(), mark)
	return cmd, mark
}

// marked are the processes with that environment variable, zombies aside.
func marked(t *testing.T, mark string) []int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		environ, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if bytes.Contains(environ, []byte(mark)) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func wantNothingLeft(t *testing.T, mark string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		pids := marked(t, mark)
		if len(pids) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("processes %v are left", pids)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestDemoTellsTheStoryAndLeavesNothing(t *testing.T) {
	cmd, mark := demo(t)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want := []string{
		`    sockstate_tcp_listener_reuseaddr{address="0.0.0.0",family="ipv4",port="4840"} 0`,
		`    sockstate_tcp_sockets{family="ipv4",port="4840",state="established"} 5`,
		`    listen tcp4 0.0.0.0:4840: bind: address already in use`,
		`    sockstate_tcp_sockets{family="ipv4",port="4841",state="time_wait"} 5`,
		`Its restart works.`,
	}
	if flags, err := sockflags.New(sockflags.Options{Mode: sockflags.ModeBPF}); err == nil {
		flags.Close()
		want = append(want,
			`    sockstate_tcp_restart_blocked_seconds{address="0.0.0.0",family="ipv4",port="4841"} 0`,
		)
	}
	for _, begin := range []string{"    4840: blocked by 5 sockets in TIME_WAIT", "    4841: "} {
		if !strings.Contains(string(out), "\n"+begin) {
			t.Errorf("no line that begins with %q", begin)
		}
	}
	for _, line := range want {
		if !strings.Contains(string(out), "\n"+line+"\n") {
			t.Errorf("no line %q", line)
		}
	}
	if t.Failed() {
		t.Logf("%s", out)
	}
	wantNothingLeft(t, mark)
}

func TestDemoThatIsKilledLeavesNothing(t *testing.T) {
	cmd, mark := demo(t)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// It has said something: the exporter runs.
	if _, err := bufio.NewReaderSize(stdout, 16).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	running := marked(t, mark)
	// Stopped, they do not end by themselves.
	for _, pid := range running {
		if pid != cmd.Process.Pid {
			_ = syscall.Kill(pid, syscall.SIGSTOP)
			t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if len(running) < 3 {
		t.Errorf("processes %v ran, want the demo, the one in the namespace and the exporter", running)
	}
	wantNothingLeft(t, mark) // before Wait, which waits for the pipe's other end
	_ = cmd.Wait()
}

func TestDemoWithoutAnExporterSaysHowToGetOne(t *testing.T) {
	err := run(t.Context(), []string{"/nonexistent/exporter"}, new(bytes.Buffer))
	const want = "no exporter to show: exec: \"/nonexistent/exporter\": stat /nonexistent/exporter: no such file or directory (`make demo` builds it)"
	if fmt.Sprint(err) != want {
		t.Errorf("error %v, want %s", err, want)
	}
}
