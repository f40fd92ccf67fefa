package linux

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// fdDir makes a directory like /proc/PID/fd.
func fdDir(t *testing.T, links ...string) string {
	t.Helper()
	dir := t.TempDir()
	for fd, link := range links {
		if err := os.Symlink(link, filepath.Join(dir, strconv.Itoa(fd))); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func sockets(t *testing.T, dir string) []SocketFD {
	t.Helper()
	var all []SocketFD
	if err := SocketFDs(t.Context(), dir, func(s SocketFD) bool { all = append(all, s); return true }); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(all, func(a, b SocketFD) int { return a.FD - b.FD })
	return all
}

func TestSocketFDsAreThoseOfSockets(t *testing.T) {
	dir := fdDir(t, "socket:[7]", "/dev/null", "pipe:[8]", "socket:[4294967295]",
		"socket:[4294967296]", "socket:[7]", "socket:[12345678901234567890123456]")
	if got, want := sockets(t, dir), []SocketFD{{FD: 0, Inode: 7}, {FD: 3, Inode: 4294967295}, {FD: 5, Inode: 7}}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestSocketFDsOfThisProcess(t *testing.T) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	if want := (SocketFD{FD: fd, Inode: uint32(st.Ino)}); !slices.Contains(sockets(t, "/proc/self/fd"), want) {
		t.Errorf("%v was not found", want)
	}
}

func TestSocketFDsEndsWhenTheFunctionSaysSo(t *testing.T) {
	n := 0
	err := SocketFDs(t.Context(), fdDir(t, "socket:[1]", "socket:[2]"), func(SocketFD) bool { n++; return false })
	if err != nil || n != 1 {
		t.Errorf("called %d times with error %v, want once and none", n, err)
	}
}

func TestSocketFDsEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := SocketFDs(ctx, fdDir(t, "socket:[1]"), func(SocketFD) bool { t.Error("called"); return true })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v, want %v", err, context.Canceled)
	}
}

func TestSocketFDsOfAProcessThatIsGone(t *testing.T) {
	err := SocketFDs(t.Context(), filepath.Join(t.TempDir(), "fd"), func(SocketFD) bool { return true })
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got error %v, want %v", err, os.ErrNotExist)
	}
}

func TestOpenSocketFDsLeavesOutWhatChanged(t *testing.T) {
	dir := fdDir(t, "socket:[1]", "socket:[2]", "/dev/null")
	got, err := OpenSocketFDs(dir, []SocketFD{{FD: 0, Inode: 1}, {FD: 1, Inode: 1}, {FD: 2, Inode: 1}, {FD: 3, Inode: 1}})
	if want := []SocketFD{{FD: 0, Inode: 1}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v and error %v, want %v", got, err, want)
	}
}
