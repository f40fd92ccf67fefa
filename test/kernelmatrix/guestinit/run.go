package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/test/kernelmatrix/guest"
)

// runBinary runs one test binary to its end and reports its output. The error
// is the reporting's; the binary's own troubles are in the Exit.
func runBinary(t guest.Run, env []string, r *guest.Reporter) (guest.Exit, error) {
	exit := guest.Exit{Package: t.Package, Code: -1}
	before, err := mounts()
	if err != nil {
		return exit, err
	}
	pid, out, err := start(t, env)
	if err != nil {
		exit.Error = err.Error()
		return exit, nil
	}
	defer out.Close()

	copied := make(chan error, 1)
	go func() { copied <- copyOutput(r, out) }()

	status, killed := waitFor(pid, t.KillAfter)
	exit.Code = exitCode(status)
	if killed {
		exit.Error = fmt.Sprintf("killed: still running after %v", t.KillAfter)
	}
	// Before the output's end is awaited: what was left holds the pipe open.
	if exit.Left, err = endLeftProcesses(); err != nil {
		return exit, err
	}
	if err := <-copied; err != nil {
		return exit, err
	}
	after, err := mounts()
	if err != nil {
		return exit, err
	}
	for target := range after {
		if !before[target] {
			exit.Left = append(exit.Left, "mount "+target)
		}
	}
	return exit, nil
}

// start is by hand because pid 1 reaps whatever ends, and would take a child's
// status from under os/exec.
func start(t guest.Run, env []string) (int, *os.File, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, nil, err
	}
	defer null.Close()
	out, w, err := os.Pipe()
	if err != nil {
		return 0, nil, err
	}
	defer w.Close()
	if t.NoModules {
		env = append(env[:len(env):len(env)], "SOCKSTATE_GUEST_NO_MODULES=1")
	}
	pid, err := syscall.ForkExec(t.Args[0], t.Args, &syscall.ProcAttr{
		Dir:   t.Dir,
		Env:   env,
		Files: []uintptr{null.Fd(), w.Fd(), w.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		_ = out.Close()
		return 0, nil, fmt.Errorf("start %s in %s: %w", t.Args[0], t.Dir, err)
	}
	return pid, out, nil
}

// waitFor reaps children until pid ends, and kills it after a while.
func waitFor(pid int, killAfter time.Duration) (status unix.WaitStatus, killed bool) {
	ended := make(chan unix.WaitStatus, 1)
	go func() {
		for {
			var ws unix.WaitStatus
			p, err := unix.Wait4(-1, &ws, 0, nil)
			if p == pid || err != nil && !errors.Is(err, unix.EINTR) {
				ended <- ws
				return
			}
		}
	}()
	select {
	case status = <-ended:
		return status, false
	case <-time.After(killAfter):
	}
	// ESRCH would mean that it ended just now; the status says how.
	_ = unix.Kill(pid, unix.SIGKILL)
	return <-ended, true
}

func exitCode(ws unix.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}

func copyOutput(r *guest.Reporter, out io.Reader) error {
	br := bufio.NewReader(out)
	for {
		line, err := br.ReadBytes('\n')
		if len(line) > 0 {
			// Output must not be nil for an empty line.
			line = append([]byte{}, bytes.TrimSuffix(line, []byte{'\n'})...)
			if err := r.Report(guest.Event{Output: line}); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read test output: %w", err)
		}
	}
}
