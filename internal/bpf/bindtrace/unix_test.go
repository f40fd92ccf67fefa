//go:build linux

package bindtrace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/reexec"
	"sockstate_exporter/internal/kerneltest/unixsocket"
)

// sunOf is a sockaddr_un with the bytes as its path.
func sunOf(path string) []byte {
	return append(binary.NativeEndian.AppendUint16(nil, unix.AF_UNIX), path...)
}

// unixEvents reads the events of a network namespace until there is none.
func unixEvents(t *testing.T, tr *Tracer, netns uint32) []UnixEvent {
	t.Helper()
	var out []UnixEvent
	for {
		var e UnixEvent
		switch err := tr.ReadUnix(time.Now(), &e); {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return out
		case err != nil:
			t.Fatal(err)
		case e.Netns == netns:
			out = append(out, e)
		}
	}
}

// unixCounts are those of a network namespace, by errno.
func unixCounts(t *testing.T, tr *Tracer, netns uint32) map[unix.Errno]uint64 {
	t.Helper()
	all, err := tr.UnixCounts(nil)
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[unix.Errno]uint64)
	for _, c := range all {
		if c.Netns == netns {
			out[c.Errno] += c.N
		}
	}
	return out
}

func TestFailedBindsOfUnixSockets(t *testing.T) {
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		ns, dir := kerneltest.New(t), t.TempDir()
		netns := uint32(ns.Inode())
		watchOnly(t, tr, ns)
		unixEvents(t, tr, netns)
		stale := filepath.Join(dir, "a\nb\xff.sock")
		if err := bindRaw(unixsocket.Open(t, ns, unix.SOCK_STREAM, ""), sunOf(stale)); err != nil {
			t.Fatal(err)
		}
		if err := bindRaw(unixsocket.Open(t, ns, unix.SOCK_DGRAM, ""), sunOf("\x00name\x00x")); err != nil {
			t.Fatal(err)
		}
		longest := "/" + strings.Repeat("n", 107)
		if len(dir) > 60 {
			t.Fatalf("no room for names in %s", dir)
		}
		for _, test := range []struct {
			typ      int
			sockaddr []byte
			errno    unix.Errno
			path     string
			abstract bool
		}{
			{unix.SOCK_STREAM, sunOf(stale), unix.EADDRINUSE, stale, false},
			{unix.SOCK_STREAM, sunOf(stale + "\x00behind"), unix.EADDRINUSE, stale, false},
			{unix.SOCK_DGRAM, sunOf("\x00name\x00x"), unix.EADDRINUSE, "name\x00x", true},
			{unix.SOCK_SEQPACKET, sunOf(dir + "/no/app.sock"), unix.ENOENT, dir + "/no/app.sock", false},
			{unix.SOCK_STREAM, sunOf(stale + "/app.sock"), unix.ENOTDIR, stale + "/app.sock", false},
			{unix.SOCK_STREAM, sunOf("/dev/null/" + longest[:98]), unix.ENOTDIR, "/dev/null/" + longest[:98], false},
			{unix.SOCK_STREAM, sunOf(longest + "n"), unix.EINVAL, "", false},    // too long
			{unix.SOCK_STREAM, make([]byte, 16), unix.EINVAL, "\x00\x00", true}, // AF_UNSPEC
		} {
			before := unixCounts(t, tr, netns)
			if err := bindRaw(unixsocket.Open(t, ns, test.typ, ""), test.sockaddr); !errors.Is(err, test.errno) {
				t.Errorf("bind to %q: %v, want %v", test.sockaddr, err, test.errno)
				continue
			}
			after := unixCounts(t, tr, netns)
			if after[test.errno] != before[test.errno]+1 {
				t.Errorf("bind to %q: the count of %v was %d and is %d", test.sockaddr, test.errno, before[test.errno], after[test.errno])
			}
			events := unixEvents(t, tr, netns)
			if len(events) != 1 {
				t.Errorf("bind to %q: %d events, want 1", test.sockaddr, len(events))
				continue
			}
			e := events[0]
			if test.path == "\x00\x00" {
				test.path = strings.Repeat("\x00", 13)
			}
			if e.Errno != test.errno || e.Path != test.path || e.Abstract != test.abstract || e.Type != test.typ || int(e.PID) != os.Getpid() || e.UID != uint32(os.Getuid()) {
				t.Errorf("bind to %q: the event is %+v", test.sockaddr, e)
			}
			var own unix.Stat_t
			if err := unix.Stat("/proc/self/ns/mnt", &own); err != nil || e.MountNS != uint32(own.Ino) {
				t.Errorf("the mount namespace is %d, want %d (%v)", e.MountNS, own.Ino, err)
			}
			if comm, err := os.ReadFile("/proc/self/comm"); err != nil || strings.TrimSpace(string(comm)) != e.Process {
				t.Errorf("the process is %q, want %q (%v)", e.Process, comm, err)
			}
		}
		// They are in no other count.
		for k, n := range countsOf(t, tr, netns) {
			t.Errorf("%d failures of %+v", n, k)
		}
	})
}

// stormUnix fails to bind a Unix socket, again and again.
func stormUnix([]string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	for range 5000 {
		if err := bindRaw(fd, sunOf("/dev/null/app.sock")); !errors.Is(err, unix.ENOTDIR) {
			return fmt.Errorf("bind: %w", err)
		}
	}
	return nil
}

// Another user's failures are counted, and take only that user's share of the events.
func TestStormOfUnixBindsLeavesRoomForOthers(t *testing.T) {
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		ns := kerneltest.New(t)
		netns := uint32(ns.Inode())
		watchOnly(t, tr, ns)
		unixEvents(t, tr, netns)
		dir := t.TempDir()
		for _, d := range []string{filepath.Dir(dir), dir} {
			if err := os.Chmod(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		self, err := reexec.Named(dir, "storm")
		if err != nil {
			t.Fatal(err)
		}
		cmd := ns.Command(t, self).As(hostileUID, hostileUID)
		cmd.Env = reexec.RoleEnv("storm-unix")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if err := bindRaw(unixsocket.Open(t, ns, unix.SOCK_STREAM, ""), sunOf("/dev/null/own.sock")); !errors.Is(err, unix.ENOTDIR) {
			t.Fatal(err)
		}
		if n := unixCounts(t, tr, netns)[unix.ENOTDIR]; n != 5001 {
			t.Errorf("%d failures are counted, want 5001", n)
		}
		events := unixEvents(t, tr, netns)
		if !slices.ContainsFunc(events, func(e UnixEvent) bool { return e.Path == "/dev/null/own.sock" }) {
			t.Errorf("%d events, and none of the other user", len(events))
		}
		if len(events) > 1000 {
			t.Errorf("%d events of one user", len(events))
		}
	})
}
