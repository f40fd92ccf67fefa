package reexec

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// Named returns a path of this binary in dir with another name: that of the processes that run it.
func Named(dir, name string) (string, error) {
	own, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("name the test binary: %w", err)
	}
	path := filepath.Join(dir, name)
	if os.Link(own, path) == nil {
		return path, nil
	}
	if err := copyFile(path, own); err != nil { // dir is in another file system
		return "", fmt.Errorf("name the test binary: %w", err)
	}
	return path, nil
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755) //nolint:gosec // others run it
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// OnThread calls f on a thread with a name of its own, which is not the main thread of the process.
func OnThread(name string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends
		if unix.Gettid() == unix.Getpid() {
			// While the main thread is locked here, f gets another one.
			done <- OnThread(name, f)
			runtime.UnlockOSThread()
			return
		}
		err := os.WriteFile("/proc/thread-self/comm", []byte(name), 0)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}
