package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// leaveGrace is how long processes may take to end after the test binary that
// started them.
const leaveGrace = 2 * time.Second

// endLeftProcesses kills every process but pid 1, so that the next package
// starts on a quiet host, and names those that did not end by themselves.
func endLeftProcesses() ([]string, error) {
	if os.Getpid() != 1 {
		return nil, errors.New("only pid 1 may end all other processes")
	}
	deadline := time.Now().Add(leaveGrace)
	for {
		reap()
		left, err := userProcesses()
		if err != nil || len(left) == 0 {
			return nil, err
		}
		if time.Now().After(deadline) {
			return killAll(left), nil
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func killAll(left map[int]string) []string {
	var names []string
	for pid, name := range left {
		// ESRCH: it has ended after all, too late to be forgiven.
		_ = unix.Kill(pid, unix.SIGKILL)
		names = append(names, fmt.Sprintf("process %d: %s", pid, name))
	}
	return names
}

func reap() {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if pid <= 0 && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// userProcesses returns the command lines of running processes other than pid
// 1. Kernel threads and zombies have none.
func userProcesses() (map[int]string, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	found := make(map[int]string)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == 1 {
			continue
		}
		// A process that ends meanwhile cannot be read, which is well.
		b, err := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if err == nil && len(b) > 0 {
			found[pid] = string(bytes.ReplaceAll(bytes.Trim(b, "\x00"), []byte{0}, []byte{' '}))
		}
	}
	return found, nil
}

func mounts() (map[string]bool, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	targets := make(map[string]bool)
	for line := range strings.Lines(string(b)) {
		// proc_pid_mountinfo(5): the fifth field is the mount point.
		if f := strings.Fields(line); len(f) > 4 {
			targets[f[4]] = true
		}
	}
	return targets, nil
}
