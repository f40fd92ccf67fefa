package unixlook

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/reexec"
)

func TestMain(m *testing.M) {
	reexec.Play(map[string]func([]string) error{"server": serve, "may": sayWhatMayBeMade})
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

func sayWhatMayBeMade(args []string) error {
	for _, path := range args {
		file := Stat(path)
		fmt.Println(file.Kind, file.Err)
	}
	return nil
}
