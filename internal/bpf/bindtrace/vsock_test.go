//go:build linux

package bindtrace

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// The port of a vsock socket is no port of the network.
func TestFailedBindOfVSOCKCountsApart(t *testing.T) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		t.Log("this kernel has no vsock")
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		before, err := tr.Stats()
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Bind(fd, &unix.SockaddrVM{CID: 123456, Port: 80}); !errors.Is(err, unix.EADDRNOTAVAIL) {
			t.Fatalf("bind: %v, want EADDRNOTAVAIL", err)
		}
		after, err := tr.Stats()
		if err != nil {
			t.Fatal(err)
		}
		if after.VSOCK <= before.VSOCK {
			t.Errorf("counted %d before and %d after", before.VSOCK, after.VSOCK)
		}
	})
}
