package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
)

const (
	// roleEnv makes the test binary one of the processes in roles.
	roleEnv = "SOCKSTATE_TEST_ROLE"
	// privateEnv marks the test binary in its own mount namespace.
	privateEnv = "SOCKSTATE_TEST_PRIVATE"

	tracefs = "/sys/kernel/tracing"
)

// roles are the processes that tests start.
func roles() map[string]func(args []string) error {
	return map[string]func(args []string) error{
		"fail":      failToBind,
		"listen":    listenAsGo,
		"notracefs": withoutTracefs,
	}
}

// roleCommand prepares this binary in a role.
func roleCommand(t *testing.T, ns *kerneltest.NetNS, role string, args ...string) *kerneltest.Cmd {
	t.Helper()
	cmd := ns.Command(t, "/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	cmd.Stderr = os.Stderr
	return cmd
}

// inPrivateMounts runs the tests in a mount namespace that has tracefs and goes with them.
// Where that is refused it returns, and tests say what they cannot do.
func inPrivateMounts() {
	if os.Getenv(privateEnv) != "" {
		if err := mountTracefs(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		return
	}
	runtime.LockOSThread() // Pdeathsig is sent when the forking thread ends
	defer runtime.UnlockOSThread()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), privateEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		os.Exit(0)
	case errors.As(err, &exit):
		os.Exit(max(exit.ExitCode(), 1))
	}
	fmt.Fprintf(os.Stderr, "run tests in a mount namespace: %v\n", err)
}

func mountTracefs() error {
	var st unix.Statfs_t
	if err := unix.Statfs(tracefs, &st); err == nil && st.Type == unix.TRACEFS_MAGIC {
		return nil
	}
	if err := unix.Mount("tracefs", tracefs, "tracefs", 0, ""); err != nil {
		return fmt.Errorf("mount tracefs: %w", err)
	}
	return nil
}

// withoutTracefs is the exporter, in a mount namespace from which it took tracefs away.
func withoutTracefs([]string) error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var points []string
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, " - tracefs ") || strings.Contains(line, " - debugfs ") {
			points = append(points, strings.Fields(line)[4])
		}
	}
	for _, p := range slices.Backward(points) {
		if err := unix.Unmount(p, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", p, err)
		}
	}
	main()
	return nil
}
