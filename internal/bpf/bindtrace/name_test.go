//go:build linux

package bindtrace

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/reexec"
)

// failOnThread says when it started, fails to bind on a thread with a name of its own, and ends.
func failOnThread([]string) error {
	p, err := procfs.Self()
	if err != nil {
		return err
	}
	stat, err := p.Stat()
	if err != nil {
		return err
	}
	fmt.Println(stat.Starttime)
	return reexec.OnThread("1_scheduler", func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if err := bindRaw(fd, sockaddrOf(v4lo, testPort)); !errors.Is(err, unix.EADDRINUSE) {
			return fmt.Errorf("bind: %w, want EADDRINUSE", err)
		}
		return nil
	})
}

// Also when the process ends at once. The kernel cuts names at 15 bytes.
func TestTheProcessIsNamedAndNotItsThread(t *testing.T) {
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		ns := kerneltest.New(t)
		watchOnly(t, tr, ns, testPort)
		listenAt(t, ns, v4lo, kerneltest.Options{})
		for _, name := range []string{"short", "fifteen-letters", "the-name-of-this-one-has-more-than-fifteen-letters"} {
			binary, err := reexec.Named(t.TempDir(), name)
			if err != nil {
				t.Fatal(err)
			}
			cmd := ns.Command(t, binary)
			cmd.Env, cmd.Stderr = reexec.RoleEnv("fail-on-thread"), os.Stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			var started uint64
			if _, err := fmt.Sscan(string(out), &started); err != nil {
				t.Fatal(err)
			}
			const clockTick = 10 * time.Millisecond // USER_HZ
			e := nextEvent(t, tr, uint32(ns.Inode()))
			if e.Process != name || int(e.PID) != cmd.Process.Pid || uint64(e.Started/clockTick) != started {
				t.Errorf("process %q, pid %d, started %d; want %q, %d, %d", e.Process, e.PID, e.Started/clockTick, name, cmd.Process.Pid, started)
			}
			if e.TID == e.PID {
				t.Error("the main thread has made the call")
			}
		}
	})
}
