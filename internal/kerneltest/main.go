package kerneltest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// usernsEnv marks a test binary that Main already started once, and, because
// it is inherited, the helper processes which that one starts.
const usernsEnv = "SOCKSTATE_KERNELTEST_USERNS"

// noUserNS is said where the kernel refuses ordinary users a user namespace.
const noUserNS = "kerneltest: running without a user namespace"

// Main runs m and exits; call it from TestMain. A process that lacks
// CAP_SYS_ADMIN or CAP_NET_ADMIN is run again, with the same arguments, in a
// user and network namespace of its own, with lo up, where it has both. Where the kernel
// refuses that, the tests run as they are and skip what they cannot do.
func Main(m *testing.M) {
	if os.Getenv(usernsEnv) == "" && !hasCaps(unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN) {
		code, err := runInUserNS()
		if err == nil {
			os.Exit(code)
		}
		fmt.Fprintf(os.Stderr, "%s: %v\n", noUserNS, err)
	}
	if os.Getenv(usernsEnv) != "" {
		// Tests that need no namespace of their own still talk to themselves.
		if err := loopbackUp(); err != nil {
			fmt.Fprintf(os.Stderr, "kerneltest: set lo up: %v\n", err)
		}
	}
	os.Exit(m.Run())
}

// runInUserNS runs this binary in a new user and network namespace and
// returns its exit code, or an error when it could not be started.
func runInUserNS() (int, error) {
	// Pdeathsig is sent when the thread that forked ends, not the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), usernsEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:                 syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings:                []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings:                []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		GidMappingsEnableSetgroups: false,
		Pdeathsig:                  syscall.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start test binary in a user namespace: %w", err)
	}

	return exitCode(cmd), nil
}

// exitCode waits for a test binary and passes on the signals that this process
// gets.
func exitCode(cmd *exec.Cmd) int {
	// cmd/go asks a hanging test for its stacks by SIGQUIT.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	defer signal.Stop(signals)
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s)
		}
	}()

	err := cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return 128 + int(status.Signal())
		}
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "kerneltest: wait for test binary: %v\n", err)
		return 1
	}
	return 0
}

// hasCaps reports whether all of caps are effective in this thread.
func hasCaps(caps ...int) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	for _, c := range caps {
		if data[c/32].Effective&(1<<(c%32)) == 0 {
			return false
		}
	}
	return true
}
