package owner

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/sockfiles"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/opener"
	"sockstate_exporter/internal/kerneltest/reexec"
	"sockstate_exporter/internal/sock"
)

const (
	// helperEnv makes the test binary a helper process.
	helperEnv = "SOCKSTATE_OWNER_HELPER"

	// nobody is a user that owns nothing.
	nobody = 65534

	// patience is how long Find waits in tests, which is until it has the answer.
	patience = 5 * time.Minute
)

// A task is what a helper process does, and then it stays until it is killed.
type task struct {
	Name       []byte   // the name that it gives itself
	ThreadName string   // the name that another thread of it gives itself
	Listen     bool     // open a listener on port 4840 with SO_REUSEPORT
	Children   int      // start that many processes that inherit it
	Procfs     *string  // mount procfs with these options, in a mount namespace of its own
	Delegated  string   // move into this cgroup, before it becomes nobody
	Drop       bool     // become nobody, after that
	Below      string   // make this cgroup in Delegated and move into it, after that
	Find       []Socket // find the owners of these
	Search     bool     // by eBPF

	Pass      bool // send the listener over a Unix socket, do not receive it, and close it
	EndLeader bool // end the main thread
}

// A report is the result of a task.
type report struct {
	Socket  Socket
	Owners  map[uint64]Owner
	Reasons []string
}

// start starts a helper process and waits for its report. Prepare may change the command.
func start(t *testing.T, ns *kerneltest.NetNS, do task, prepare func(*kerneltest.Cmd)) (report, *kerneltest.Cmd) {
	t.Helper()
	arg, err := json.Marshal(do)
	if err != nil {
		t.Fatal(err)
	}
	cmd := ns.Command(t, "/proc/self/exe")
	cmd.Env = append(os.Environ(), helperEnv+"="+string(arg))
	cmd.Stderr = os.Stderr
	if prepare != nil {
		prepare(cmd)
	}
	// Children have its end of the pipe, too, and end when this one is closed.
	_, stdout := reexec.StartPiped(t, cmd)
	var got report
	if err := json.NewDecoder(stdout).Decode(&got); err != nil {
		t.Fatalf("helper process: %v", err)
	}
	return got, cmd
}

// eachWay runs a test with each way to search for sockets.
func eachWay(t *testing.T, test func(*testing.T, Options)) {
	t.Helper()
	t.Run("procfs", func(t *testing.T) { test(t, Options{}) })
	t.Run("bpf", func(t *testing.T) { test(t, Options{Searcher: searcher(t)}) })
}

func searcher(t testing.TB) Searcher {
	t.Helper()
	return opener.AsRoot(t, func() (*sockfiles.Reader, error) { return sockfiles.New(nil) }, func(err error) bool {
		var unavailable *sock.UnavailableError
		return errors.As(err, &unavailable) && slices.Contains([]string{sock.ReasonUnsupported, sock.ReasonPIDNamespace}, unavailable.Reason)
	})
}

func asNobody(caps ...uintptr) func(*kerneltest.Cmd) {
	return func(cmd *kerneltest.Cmd) {
		cmd.As(nobody, nobody)
		cmd.SysProcAttr.AmbientCaps = caps
	}
}

func helper() int {
	var do task
	var got report
	err := json.Unmarshal([]byte(os.Getenv(helperEnv)), &do)
	if err == nil {
		err = do.run(&got)
	}
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(got)
	}
	if err == nil {
		_, err = io.Copy(io.Discard, os.Stdin)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func (do task) run(got *report) error {
	if do.Name != nil {
		// comm_write names the main thread, whichever thread writes.
		if err := os.WriteFile("/proc/self/comm", do.Name, 0); err != nil {
			return err
		}
	}
	if do.ThreadName != "" {
		if err := nameAThread(do.ThreadName); err != nil {
			return err
		}
	}
	if do.Listen {
		fd, err := listen()
		if err != nil {
			return err
		}
		if got.Socket, err = identify(fd); err != nil {
			return err
		}
		for range do.Children {
			if err := inherit(fd); err != nil {
				return err
			}
		}
		if do.Pass {
			if err := pass(fd); err != nil {
				return err
			}
		}
	}
	opts := Options{Wait: patience}
	if do.Search {
		r, err := sockfiles.New(nil)
		if err != nil {
			return err
		}
		defer r.Close()
		opts.Searcher = r
	}
	proc := "/proc"
	if do.Procfs != nil {
		proc = os.TempDir()
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		if err := unix.Mount("proc", proc, "proc", 0, *do.Procfs); err != nil {
			return err
		}
	}
	if do.Delegated != "" {
		if err := moveTo(do.Delegated); err != nil {
			return err
		}
	}
	if do.Drop {
		if err := becomeNobody(); err != nil {
			return err
		}
	}
	if do.Below != "" {
		dir := filepath.Join(do.Delegated, do.Below)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		if err := moveTo(dir); err != nil {
			return err
		}
	}
	if do.EndLeader {
		return endMainThread()
	}
	if do.Find == nil {
		return nil
	}
	opts.Proc = proc
	f, err := New(opts)
	if err != nil {
		return err
	}
	defer f.Close()
	if got.Owners, err = f.Find(context.Background(), do.Find); err != nil {
		return err
	}
	for _, s := range f.Shortfalls() {
		got.Reasons = append(got.Reasons, s.Reason)
	}
	return nil
}

// moveTo moves this process into a cgroup.
func moveTo(dir string) error {
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0)
}

// becomeNobody changes all threads, and so gives up all capabilities.
func becomeNobody() error {
	if err := syscall.Setgroups(nil); err != nil {
		return err
	}
	if err := syscall.Setresgid(nobody, nobody, nobody); err != nil {
		return err
	}
	return syscall.Setresuid(nobody, nobody, nobody)
}

// nameAThread has a thread other than the main one take a name, and keeps it.
func nameAThread(name string) error {
	named := make(chan error)
	for range 2 { // one of them is not the main thread
		go func() {
			runtime.LockOSThread()
			if unix.Gettid() == unix.Getpid() {
				named <- nil
			} else {
				b, err := unix.ByteSliceFromString(name)
				if err == nil {
					err = os.WriteFile(fmt.Sprintf("/proc/self/task/%d/comm", unix.Gettid()), b[:len(b)-1], 0)
				}
				named <- err
			}
			for {
				time.Sleep(time.Hour)
			}
		}()
	}
	if err := <-named; err != nil {
		return err
	}
	return <-named
}

// endMainThread ends the main thread and leaves the others.
func endMainThread() error {
	ended := make(chan struct{})
	for range 100 { // each takes another thread, until one has the main one
		go func() {
			runtime.LockOSThread()
			if unix.Gettid() == unix.Getpid() {
				close(ended)
				_, _, _ = unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
			}
			select {}
		}()
	}
	select {
	case <-ended:
	case <-time.After(patience):
		return errors.New("no goroutine ran on the main thread")
	}
	for {
		stat, err := os.ReadFile("/proc/self/stat")
		if err != nil || bytes.Contains(stat, []byte(") Z ")) {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

// pass leaves a descriptor on its way between two sockets.
func pass(fd int) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(fd), nil, 0); err != nil {
		return err
	}
	return unix.Close(fd)
}

func listen() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		return -1, err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: 4840, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return -1, err
	}
	return fd, unix.Listen(fd, 1)
}

// identify names a socket as sock_diag does.
func identify(fd int) (Socket, error) {
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		return Socket{}, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return Socket{}, err
	}
	return Socket{Cookie: cookie, Inode: uint32(st.Ino)}, nil
}

// inherit starts a process that has the socket open, and ends with standard input.
func inherit(fd int) error {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), helperEnv+"={}")
	cmd.Stdin = os.Stdin
	cmd.ExtraFiles = []*os.File{os.NewFile(uintptr(fd), "socket")}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	return json.NewDecoder(stdout).Decode(new(report))
}
