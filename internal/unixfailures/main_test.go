package unixfailures

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/mounts"
	"sockstate_exporter/internal/kerneltest/reexec"
)

func TestMain(m *testing.M) {
	reexec.Play(map[string]func([]string) error{"bind": bindOnce, "serve": serve})
	mounts.PrivateTracefs()
	kerneltest.Main(m)
}

func bind(path string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	return fd, unix.Bind(fd, &unix.SockaddrUnix{Name: path})
}

// bindOnce fails to bind, and ends at once unless it is to stay. "private" makes it mount a tmpfs on the
// directory, and leave a file there, before.
func bindOnce(args []string) error {
	path := args[0]
	for _, how := range args[1:] {
		switch how {
		case "private":
			if err := unix.Mount("tmpfs", filepath.Dir(path), "tmpfs", 0, ""); err != nil {
				return err
			}
			fd, err := bind(path)
			if err := errors.Join(err, unix.Close(fd)); err != nil {
				return err
			}
		case "relative":
			if err := os.Chdir(filepath.Dir(path)); err != nil {
				return err
			}
			path = filepath.Base(path)
		}
	}
	_, err := bind(path)
	fmt.Println(err)
	if len(args) > 1 && args[len(args)-1] == "stay" {
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	}
	return nil
}

// serve listens on a path until its standard input ends.
func serve(args []string) error {
	fd, err := bind(args[0])
	if err := errors.Join(err, unix.Listen(fd, 5)); err != nil {
		return err
	}
	fmt.Println("<nil>")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}
