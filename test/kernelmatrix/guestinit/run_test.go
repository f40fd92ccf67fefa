package main

import (
	"bytes"
	"errors"
	"os"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sockstate_exporter/test/kernelmatrix/guest"
)

// TestMain lets the test binary stand in for one that the init starts.
func TestMain(m *testing.M) {
	switch mode := os.Getenv("GUESTINIT_CHILD"); mode {
	case "":
		os.Exit(m.Run())
	case "hang":
		for parent := os.Getppid(); os.Getppid() == parent; {
			time.Sleep(10 * time.Millisecond)
		}
	case "print":
		_, _ = os.Stdout.WriteString("out\n")
		_, _ = os.Stderr.WriteString("err\n")
	default:
		code, _ := strconv.Atoi(mode)
		os.Exit(code)
	}
}

func startChild(t *testing.T, mode string) (int, *os.File) {
	t.Helper()
	run := guest.Run{Dir: t.TempDir(), Args: []string{"/proc/self/exe"}}
	pid, out, err := start(run, []string{"GUESTINIT_CHILD=" + mode})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	return pid, out
}

func TestExitStatusIsTheChilds(t *testing.T) {
	pid, _ := startChild(t, "3")
	status, killed := waitFor(pid, time.Minute)
	if got := exitCode(status); got != 3 || killed {
		t.Errorf("exit code %d, killed %v, want 3, false", got, killed)
	}
}

func TestChildThatStaysIsKilled(t *testing.T) {
	pid, _ := startChild(t, "hang")
	status, killed := waitFor(pid, time.Millisecond)
	if got := exitCode(status); got != 128+9 || !killed {
		t.Errorf("exit code %d, killed %v, want 137, true", got, killed)
	}
}

func TestBothOutputsAreReported(t *testing.T) {
	pid, out := startChild(t, "print")
	var b bytes.Buffer
	if err := copyOutput(guest.NewReporter(&b), out); err != nil {
		t.Fatal(err)
	}
	waitFor(pid, time.Minute)
	if got, want := b.String(), "|out\n|err\n"; got != want {
		t.Errorf("reported %q, want %q", got, want)
	}
}

func TestMissingBinaryIsAnError(t *testing.T) {
	_, _, err := start(guest.Run{Dir: "/", Args: []string{"/nowhere/x.test"}}, nil)
	if !errors.Is(err, syscall.ENOENT) {
		t.Errorf("error %v, want %v", err, syscall.ENOENT)
	}
}

func TestLastLineNeedsNoNewline(t *testing.T) {
	var b bytes.Buffer
	if err := copyOutput(guest.NewReporter(&b), strings.NewReader("a\n\nb")); err != nil {
		t.Fatal(err)
	}
	if got, want := b.String(), "|a\n|\n|b\n"; got != want {
		t.Errorf("reported %q, want %q", got, want)
	}
}

func TestRunningChildIsAUserProcess(t *testing.T) {
	pid, _ := startChild(t, "hang")
	running, err := userProcesses()
	waitFor(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := running[pid], "/proc/self/exe"; got != want {
		t.Errorf("command line %q, want %q", got, want)
	}
}

func TestOnlyInitEndsOtherProcesses(t *testing.T) {
	if os.Getpid() == 1 {
		t.Fatal("run as pid 1")
	}
	left, err := endLeftProcesses()
	if left != nil || err == nil || err.Error() != "only pid 1 may end all other processes" {
		t.Errorf("left %v, error %v", left, err)
	}
}

func TestMountsNamesMountPoints(t *testing.T) {
	got, err := mounts()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{"/": true, "/proc": true}
	for target := range got {
		if !want[target] {
			delete(got, target)
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("found %v, want %v", got, want)
	}
}
