package netlinkdiag_test

import (
	"errors"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/netlinkdiag"
)

// ports returns the local ports, sorted, without duplicates.
func ports(sockets []netlinkdiag.Socket) []uint16 {
	set := make(map[uint16]bool)
	for _, s := range sockets {
		set[s.Local.Port()] = true
	}
	return slices.Sorted(maps.Keys(set))
}

func TestConnSeesItsNamespaceOnly(t *testing.T) {
	one, two := kerneltest.New(t), kerneltest.New(t)
	one.Listen(t, addr("127.0.0.1:4841"), kerneltest.Options{})
	two.Listen(t, addr("127.0.0.1:4842"), kerneltest.Options{})
	c1, c2 := dialNetNS(t, one), dialNetNS(t, two)
	for range 2 {
		if got := ports(mustDump(t, c1, netlinkdiag.Request{})); !slices.Equal(got, []uint16{4841}) {
			t.Errorf("the first namespace has ports %v, want 4841", got)
		}
		if got := ports(mustDump(t, c2, netlinkdiag.Request{})); !slices.Equal(got, []uint16{4842}) {
			t.Errorf("the second namespace has ports %v, want 4842", got)
		}
	}
}

func TestConnWithoutNamespaceSeesTheCallers(t *testing.T) {
	ns := kerneltest.New(t)
	ns.Listen(t, addr("127.0.0.1:4840"), kerneltest.Options{})
	ns.Do(t, func() {
		c, err := netlinkdiag.Dial(nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if got := ports(mustDump(t, c, netlinkdiag.Request{})); !slices.Equal(got, []uint16{4840}) {
			t.Errorf("ports %v, want 4840", got)
		}
	})
}

// The Conn does not need the caller's descriptor any more, not even to open another socket.
func TestCallerMayCloseItsNamespaceDescriptor(t *testing.T) {
	ns := kerneltest.New(t)
	ns.Listen(t, addr("127.0.0.1:4840"), kerneltest.Options{})
	fd, err := unix.FcntlInt(uintptr(ns.FD()), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	c, err := netlinkdiag.Dial(&netlinkdiag.Config{NetNS: fd})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := unix.Close(fd); err != nil {
		t.Errorf("close the caller's descriptor: %v", err)
	}
	for range 2 {
		if got := ports(mustDump(t, c, netlinkdiag.Request{})); !slices.Equal(got, []uint16{4840}) {
			t.Errorf("ports %v, want 4840", got)
		}
		for range c.Dump(noContext, netlinkdiag.Request{}) {
			break // and with it the socket
		}
	}
}

func TestDialBadNamespaceDescriptor(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	for _, tt := range []struct {
		name string
		fd   int
		want error
		text string
	}{
		{"closed", 1 << 20, unix.EBADF, "duplicate network namespace descriptor: bad file descriptor"},
		{"a pipe", int(r.Fd()), unix.EINVAL, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := netlinkdiag.Dial(&netlinkdiag.Config{NetNS: tt.fd})
			if c != nil || !errors.Is(err, tt.want) {
				t.Fatalf("Dial gives %v, error %v; want %v", c, err, tt.want)
			}
			if tt.text != "" && err.Error() != tt.text {
				t.Errorf("error says %q, want %q", err, tt.text)
			}
		})
	}
}

// helper runs this binary in the role, with the namespace as descriptor 3.
func helper(t *testing.T, ns *kerneltest.NetNS, role string, attr *syscall.SysProcAttr) string {
	t.Helper()
	fd, err := unix.FcntlInt(uintptr(ns.FD()), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "netns")
	defer file.Close()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), helperEnv+"="+role)
	cmd.ExtraFiles = []*os.File{file}
	cmd.SysProcAttr = attr
	out, err := cmd.CombinedOutput()
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EINVAL) {
		kerneltest.Skip(t, "cannot start a process in a user namespace: %v", err)
	}
	if err != nil {
		t.Fatalf("helper: %v\n%s", err, out)
	}
	return string(out)
}

// A process in a user namespace of its own has no capabilities in the parent's.
func TestDialNamespaceThatMayNotBeEntered(t *testing.T) {
	got := helper(t, kerneltest.New(t), "dial", &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	})
	if !strings.HasPrefix(got, "permission true: open sock_diag: ") {
		t.Errorf("Dial answered %q, want os.ErrPermission", got)
	}
}

// Descriptor 0 would mean the namespace of the calling thread.
func TestNamespaceIsKeptWithoutStandardInput(t *testing.T) {
	ns := kerneltest.New(t)
	ns.Listen(t, addr("127.0.0.1:4840"), kerneltest.Options{})
	got := helper(t, ns, "dump without standard input", nil)
	if want := "listen 127.0.0.1:4840 <nil>\n"; got != want {
		t.Errorf("the dump yielded %q, want %q", got, want)
	}
}
