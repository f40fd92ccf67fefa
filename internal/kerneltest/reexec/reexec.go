package reexec

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
)

// Run runs this binary once more, with the same arguments, standard streams and
// environment, in the namespaces that attr names, and waits for it. In the child
// the variable env is 1. Signals that this process gets go to the child, and the
// child is killed when this process dies.
//
// Run returns the exit code of the child, 128 more than the signal when a signal
// ended it, or an error when it could not be started.
func Run(env string, attr *syscall.SysProcAttr) (code int, err error) {
	// Pdeathsig is sent when the thread that forked ends, not the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	attr.Pdeathsig = syscall.SIGKILL
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), env+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = attr
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("run the test binary again: %w", err)
	}
	return exitCode(cmd), nil
}

// exitCode waits for the child and sends it the signals that this process gets.
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
		fmt.Fprintf(os.Stderr, "reexec: wait for the test binary: %v\n", err)
		return 1
	}
	return 0
}
