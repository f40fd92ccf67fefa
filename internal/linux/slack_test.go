package linux

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	slackRole = "SOCKSTATE_LINUX_SLACK" // what the test binary does before it restarts
	testSlack = 3 * time.Millisecond
)

// restartAs does what the role says to the file of the running program, restarts it, and prints what came of it.
func restartAs(role string) error {
	path, err := os.Executable()
	if err != nil {
		return err
	}
	if os.Getenv(TimerSlackSet) == "" {
		switch role {
		case "removed":
			err = os.Remove(path)
		case "replaced":
			err = errors.Join(os.Remove(path), os.WriteFile(path, []byte("#!/bin/sh\necho stranger\n"), 0o755))
		}
		if err != nil {
			return err
		}
	}
	restart := RestartWithTimerSlack(testSlack)
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	fmt.Println(os.Getpid(), strings.Join(os.Args[1:], " "), len(threads) > 1, restart)
	for _, thread := range threads {
		slack, err := os.ReadFile(filepath.Join("/proc", thread.Name(), "timerslack_ns"))
		if errors.Is(err, os.ErrPermission) {
			continue // without CAP_SYS_NICE a thread may read only its own
		}
		if err != nil {
			return err
		}
		fmt.Print(string(slack))
	}
	return nil
}

func TestRestartWithTimerSlack(t *testing.T) {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		role, result string
		all          bool // all threads have the slack
	}{
		{"untouched", "<nil>", true},
		{"removed", "no such file or directory", false},
		{"replaced", "is another program now", false},
	} {
		t.Run(test.role, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "program")
			if err := os.WriteFile(path, self, 0o755); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(path, "one", "two words")
			cmd.Env = append(os.Environ(), slackRole+"="+test.role)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			lines := strings.Split(strings.TrimSpace(string(out)), "\n")
			if want := fmt.Sprintf("%d one two words true ", cmd.Process.Pid); !strings.HasPrefix(lines[0], want) || !strings.HasSuffix(lines[0], test.result) {
				t.Errorf("it says %q, want %q and then %q", lines[0], want, test.result)
			}
			all := true
			for _, slack := range lines[1:] {
				all = all && slack == strconv.FormatInt(int64(testSlack), 10)
			}
			if all != test.all {
				t.Errorf("the threads' slacks are %q; all of them %v: %v, want %v", lines[1:], testSlack, all, test.all)
			}
		})
	}
}
