package sockflags_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/sockflags"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/reexec"
	"sockstate_exporter/internal/sock"
)

// nobody is a user that owns nothing.
const nobody = 65534

// A task is what a helper process does, with the capabilities it was started with.
type task struct {
	Mode     sockflags.Mode
	Request  sockflags.Request
	NetNS    string // path of the namespace to ask for, if any
	DropCaps bool   // between New and Read
	Hold     bool   // stay, with the reader open, until standard input ends
	Listen   bool   // open a listener on port instead, and hold it
}

// A report is the result of a task.
type report struct {
	Mode       sockflags.Mode
	Reasons    []string // New or Read failed: why, of all modes tried
	Err        string
	Shortfalls []string
	Listeners  map[uint64]sockflags.Flags
	Groups     []sockflags.Group
}

// start runs a task in another process, as nobody with exactly these capabilities.
func start(t *testing.T, ns *kerneltest.NetNS, do task, caps ...uintptr) (report, *kerneltest.Cmd) {
	t.Helper()
	kerneltest.RequireRoot(t)
	cmd := ns.Command(t, "/proc/self/exe").As(nobody, nobody)
	cmd.SysProcAttr.AmbientCaps = caps
	arg, err := json.Marshal(do)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(os.Environ(), helperEnv+"="+string(arg))
	cmd.Stderr = os.Stderr
	_, stdout := reexec.StartPiped(t, cmd)
	var got report
	if err := json.NewDecoder(stdout).Decode(&got); err != nil {
		t.Fatalf("helper process: %v", err)
	}
	return got, cmd
}

func helper() int {
	var do task
	err := json.Unmarshal([]byte(os.Getenv(helperEnv)), &do)
	if err == nil {
		err = do.run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func (do task) run() error {
	if do.Listen {
		fd, err := listenHere()
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := json.NewEncoder(os.Stdout).Encode(report{}); err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, os.Stdin)
		return err
	}

	var got report
	r, err := sockflags.New(sockflags.Options{Mode: do.Mode})
	if err == nil {
		defer r.Close()
		err = do.read(r, &got)
	}
	if err != nil {
		got.Err = err.Error()
		got.Reasons = reasons(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(got); err != nil {
		return err
	}
	if do.Hold {
		_, err = io.Copy(io.Discard, os.Stdin)
		return err
	}
	return nil
}

func (do task) read(r *sockflags.Reader, got *report) error {
	if do.DropCaps {
		if err := dropCaps(); err != nil {
			return err
		}
	}
	got.Mode = r.Mode()
	for _, s := range r.Shortfalls() {
		got.Shortfalls = append(got.Shortfalls, s.Reason)
	}
	if do.NetNS != "" {
		ns, err := os.Open(do.NetNS)
		if err != nil {
			return err
		}
		defer ns.Close()
		do.Request.NetNS = int(ns.Fd())
	}
	// Twice, so that a Read cannot depend on what New left.
	for range 2 {
		result, err := r.Read(context.Background(), do.Request)
		if err != nil {
			return err
		}
		got.Listeners, got.Groups = result.Listeners, result.Groups
	}
	return nil
}

// reasons collects those of an error that may join several.
func reasons(err error) []string {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []string
		for _, e := range joined.Unwrap() {
			all = append(all, reasons(e)...)
		}
		return all
	}
	var u *sock.UnavailableError
	if errors.As(err, &u) {
		return []string{u.Reason}
	}
	return nil
}

// listenHere opens a listener on port with SO_REUSEADDR.
func listenHere() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return -1, err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: v4lo.As4()}); err != nil {
		return -1, err
	}
	return fd, unix.Listen(fd, 1)
}

// dropCaps gives up all capabilities of this thread, and keeps the goroutine on it.
func dropCaps() error {
	runtime.LockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	return unix.Capset(&header, &none[0])
}
