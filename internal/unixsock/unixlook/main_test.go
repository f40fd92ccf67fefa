package unixlook

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/reexec"
)

func TestMain(m *testing.M) {
	reexec.Play(map[string]func([]string) error{"server": serve, "may": sayWhatMayBeMade, "crowd": crowd})
	kerneltest.Main(m)
}

// serve listens on a path until its standard input ends. With "private" it first mounts a tmpfs on
// the directory of the path, in its own mount namespace. With "chdir" it binds to the name alone.
func serve(args []string) error {
	path, how := args[0], args[1]
	if how == "private" {
		if err := unix.Mount("tmpfs", filepath.Dir(path), "tmpfs", 0, ""); err != nil {
			return fmt.Errorf("mount: %w", err)
		}
	}
	if how == "chdir" {
		if err := os.Chdir(filepath.Dir(path)); err != nil {
			return err
		}
		path = filepath.Base(path)
	}
	if err := listen(path); err != nil {
		return err
	}
	fmt.Println("ready")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// listen leaves the socket open.
func listen(path string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 5))
}

// crowd has sockets until its standard input ends. The first ones of all processes are bound, in directories of
// their own under the last part of the path, the next ones to abstract names that look like it. All others have
// no name: the kernel takes a minute to bind 100,000.
func crowd(args []string) error {
	path := args[0]
	first, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	for i := first; i < first+crowdOfOne; i++ {
		if i >= crowdBound {
			i++
			if _, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
				return err
			}
			continue
		}
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		name := fmt.Sprint("@", path, "\x00", i)
		if i < crowdOfBase {
			dir := filepath.Join(filepath.Dir(path), fmt.Sprint("d\n\x1b[31m", i))
			if err := os.Mkdir(dir, 0o755); err != nil {
				return err
			}
			name = filepath.Join(dir, filepath.Base(path))
		}
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: name}); err != nil {
			return fmt.Errorf("bind to %q: %w", name, err)
		}
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func sayWhatMayBeMade(args []string) error {
	for _, path := range args {
		file := Stat(path)
		fmt.Println(file.Kind, file.Err)
	}
	return nil
}
