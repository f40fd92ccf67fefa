package sockfiles

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"reflect"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/opener"
	"sockstate_exporter/internal/kerneltest/reexec"
	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/sock"
)

func newReader(t testing.TB) *Reader {
	t.Helper()
	return opener.AsRoot(t, func() (*Reader, error) { return New(nil) }, func(err error) bool {
		var unavailable *sock.UnavailableError
		return errors.As(err, &unavailable) && unavailable.Reason == sock.ReasonPIDNamespace
	})
}

func openSocket() (fd int, inode uint32, err error) {
	if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, 0, err
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	return fd, uint32(st.Ino), err
}

func newSocket(t testing.TB) (file *os.File, inode uint32) {
	t.Helper()
	fd, inode, err := openSocket()
	if err != nil {
		t.Fatal(err)
	}
	file = os.NewFile(uintptr(fd), "socket")
	t.Cleanup(func() { _ = file.Close() })
	return file, inode
}

func holder(t testing.TB, pid, thread, fd int, inode uint32) linux.SocketHolder {
	t.Helper()
	start, err := linux.ProcessStart("/proc", pid)
	if err != nil {
		t.Fatal(err)
	}
	return linux.SocketHolder{PID: pid, Start: start, Thread: thread, FDs: []linux.SocketFD{{FD: fd, Inode: inode}}}
}

func checkHolders(t testing.TB, r *Reader, inode uint32, want ...linux.SocketHolder) {
	t.Helper()
	got, err := r.Search(t.Context(), func(i uint32) bool { return i == inode })
	if err != nil {
		t.Fatal(err)
	}
	byPID := func(all []linux.SocketHolder) map[int]linux.SocketHolder {
		out := make(map[int]linux.SocketHolder)
		for _, h := range all {
			out[h.PID] = h
		}
		return out
	}
	if len(got) != len(want) || !reflect.DeepEqual(byPID(got), byPID(want)) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// helper stays until its standard input ends, or says why no Reader can be made.
func helper() int {
	if os.Getenv(helperEnv) == "stay" {
		fmt.Println("ready")
		_, _ = io.Copy(io.Discard, os.Stdin)
		return 0
	}
	r, err := New(nil)
	var unavailable *sock.UnavailableError
	switch {
	case err == nil:
		fmt.Print("works")
		_ = r.Close()
	case errors.As(err, &unavailable):
		fmt.Print(unavailable.Reason)
	}
	return 0
}

// command makes a helper process, in new namespaces.
func command(t testing.TB, do string, namespaces uintptr) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), helperEnv+"="+do)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces}
	return cmd
}

// inherit starts a process that has the socket as descriptor 3. It returns its pid.
func inherit(t testing.TB, socket *os.File, namespaces uintptr) int {
	t.Helper()
	cmd := command(t, "stay", namespaces)
	cmd.ExtraFiles = []*os.File{socket}
	stdin, stdout := reexec.StartPiped(t, cmd)
	t.Cleanup(func() { _ = stdin.Close(); _ = cmd.Wait() })
	if _, err := io.ReadFull(stdout, make([]byte, len("ready"))); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

func TestEveryProcessThatHasTheSocketIsFound(t *testing.T) {
	r := newReader(t)
	socket, inode := newSocket(t)
	own := holder(t, os.Getpid(), 0, int(socket.Fd()), inode)
	checkHolders(t, r, inode, own)
	child := inherit(t, socket, 0)
	elsewhere := inherit(t, socket, unix.CLONE_NEWPID)
	first, second := holder(t, child, 0, 3, inode), holder(t, elsewhere, 0, 3, inode)
	first.FDs[0].Inherited, second.FDs[0].Inherited = true, true
	checkHolders(t, r, inode, own, first, second)
}

// A process that has a socket of another one, and does not wait for what it has, has inherited it.
func TestInheritedSocket(t *testing.T) {
	r := newReader(t)
	socket, inode := newSocket(t)
	own := holder(t, os.Getpid(), 0, int(socket.Fd()), inode)
	child := holder(t, inherit(t, socket, 0), 0, 3, inode)
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(epoll)
	wait := func(op int) {
		t.Helper()
		if err := unix.EpollCtl(epoll, op, int(socket.Fd()), &unix.EpollEvent{Events: unix.EPOLLIN}); err != nil {
			t.Fatal(err)
		}
	}
	wait(unix.EPOLL_CTL_ADD)
	checkHolders(t, r, inode, own, child)
	wait(unix.EPOLL_CTL_DEL)
	child.FDs[0].Inherited = true
	checkHolders(t, r, inode, own, child)
}

// Of a server that has become another user, as servers do that open their sockets as root, the kernel does not
// show whether it has opened the socket.
func TestSocketOfAServerThatChangedItsUser(t *testing.T) {
	kerneltest.RequireRoot(t)
	r := newReader(t)
	socket, inode := newSocket(t)
	cmd := command(t, "stay", 0)
	cmd.ExtraFiles = []*os.File{socket}
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		kerneltest.Skip(t, "another user may not run the tests: %v", err)
	}
	t.Cleanup(func() { _ = stdin.Close(); _ = cmd.Wait() })
	checkHolders(t, r, inode, holder(t, os.Getpid(), 0, int(socket.Fd()), inode), holder(t, cmd.Process.Pid, 0, 3, inode))
}

func TestSocketIsFoundOnceInAProcess(t *testing.T) {
	r := newReader(t)
	socket, inode := newSocket(t)
	dup, err := unix.FcntlInt(socket.Fd(), unix.F_DUPFD_CLOEXEC, int(socket.Fd())+1)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dup)
	checkHolders(t, r, inode, holder(t, os.Getpid(), 0, int(socket.Fd()), inode))
}

func TestSocketOnItsWayIsNotFound(t *testing.T) {
	r := newReader(t)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	socket, inode := newSocket(t)
	if err := unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(int(socket.Fd())), nil, 0); err != nil {
		t.Fatal(err)
	}
	if err := socket.Close(); err != nil {
		t.Fatal(err)
	}
	checkHolders(t, r, inode)
}

// onOwnDescriptors opens a socket in a thread that shares no descriptors with its process, and keeps it
// open while f runs.
func onOwnDescriptors(t *testing.T, f func(tid, fd int, inode uint32)) {
	t.Helper()
	type socket struct {
		tid, fd int
		inode   uint32
	}
	opened, done, ended := make(chan socket), make(chan struct{}), make(chan error)
	go func() {
		ended <- reexec.OnThread("own", func() error {
			defer close(opened)
			if err := unix.Unshare(unix.CLONE_FILES); err != nil {
				return err
			}
			fd, inode, err := openSocket()
			if err == nil {
				opened <- socket{unix.Gettid(), fd, inode}
				<-done
			}
			return err
		})
	}()
	if s, ok := <-opened; ok {
		f(s.tid, s.fd, s.inode)
	}
	close(done)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

func TestThreadWithDescriptorsOfItsOwn(t *testing.T) {
	r := newReader(t)
	onOwnDescriptors(t, func(tid, fd int, inode uint32) {
		checkHolders(t, r, inode, holder(t, os.Getpid(), tid, fd, inode))
	})
}

func TestSearchGivesUpWhereThreadsHaveTooManySockets(t *testing.T) {
	r := newReader(t)
	r.maxThreads = 0
	onOwnDescriptors(t, func(int, int, uint32) {
		if _, err := r.Search(t.Context(), func(uint32) bool { return false }); !errors.Is(err, ErrTooMany) {
			t.Errorf("got %v, want %v", err, ErrTooMany)
		}
	})
}

func TestSearchEndsWithItsContext(t *testing.T) {
	r := newReader(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Search(ctx, func(uint32) bool { return true }); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

func TestMoreSocketsThanOneReadHolds(t *testing.T) {
	r := newReader(t)
	const sockets = 3 * seqBufSize / recordSize
	wanted := make(map[uint32]bool)
	for range sockets {
		_, inode := newSocket(t)
		wanted[inode] = true
	}
	found, err := r.Search(t.Context(), func(i uint32) bool { return wanted[i] })
	if err != nil || len(found) != 1 || len(found[0].FDs) != sockets {
		t.Fatalf("got %d processes, %v; want %d sockets in one", len(found), err, sockets)
	}
	for _, d := range found[0].FDs {
		delete(wanted, d.Inode)
	}
	if len(wanted) != 0 {
		t.Errorf("%d sockets were not found", len(wanted))
	}
}

// BenchmarkSearch passes 10,000 descriptors of this process, beside those of the host.
func BenchmarkSearch(b *testing.B) {
	r := newReader(b)
	socket, inode := newSocket(b)
	const files = 10_000
	for range files {
		file, err := os.Open(os.DevNull)
		if err != nil {
			b.Fatal(err)
		}
		defer file.Close()
	}
	want := holder(b, os.Getpid(), 0, int(socket.Fd()), inode)
	for b.Loop() {
		checkHolders(b, r, inode, want)
	}
}

func TestNewFailsInAnotherPIDNamespace(t *testing.T) {
	newReader(t)
	for namespaces, want := range map[uintptr]string{0: "works", unix.CLONE_NEWPID: sock.ReasonPIDNamespace} {
		out, err := command(t, "new", namespaces).Output()
		if err != nil || string(out) != want {
			t.Errorf("namespaces %#x: got %q, %v; want %q", namespaces, out, err, want)
		}
	}
}
