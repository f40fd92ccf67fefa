package owner

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/reexec"
	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/sock"
)

func TestOtherUsersNeedExactlyCapSysPtraceAndCapDACReadSearch(t *testing.T) {
	kerneltest.RequireRoot(t)
	ns := kerneltest.New(t)
	server, _ := start(t, ns, task{Listen: true}, nil)
	for _, test := range []struct {
		name    string
		caps    []uintptr
		found   bool
		reasons []string
	}{
		{"both", []uintptr{unix.CAP_SYS_PTRACE, unix.CAP_DAC_READ_SEARCH}, true, nil},
		{"no_cap_sys_ptrace", []uintptr{unix.CAP_DAC_READ_SEARCH}, false, []string{sock.ReasonCapSysPtrace}},
		{"no_cap_dac_read_search", []uintptr{unix.CAP_SYS_PTRACE}, false, []string{sock.ReasonCapDACReadSearch}},
		{"cap_sys_admin_is_no_substitute", []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER},
			false, []string{sock.ReasonCapSysPtrace}},
		{"none", nil, false, []string{sock.ReasonCapSysPtrace, sock.ReasonCapDACReadSearch}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, _ := start(t, ns, task{Find: []Socket{server.Socket}}, asNobody(test.caps...))
			owner := got.Owners[server.Socket.Cookie]
			if owner.Known() != test.found {
				t.Errorf("found: %t, want %t", owner.Known(), test.found)
			}
			if hidden := owner.Absence == Hidden; hidden == test.found {
				t.Errorf("absence %d, found %t", owner.Absence, test.found)
			}
			if !slices.Equal(got.Reasons, test.reasons) {
				t.Errorf("reasons %v, want %v", got.Reasons, test.reasons)
			}
		})
	}
}

func TestSearcherFindsOtherUsersSocketsWithoutCapSysPtrace(t *testing.T) {
	searcher(t)
	ns := kerneltest.New(t)
	server, cmd := start(t, ns, task{Name: []byte("server"), Listen: true}, nil)
	got, _ := start(t, ns, task{Find: []Socket{server.Socket}, Search: true}, asNobody(unix.CAP_BPF, unix.CAP_PERFMON))
	if owner := got.Owners[server.Socket.Cookie]; owner.PID != cmd.Process.Pid || owner.Process != "server" {
		t.Errorf("got %+v, want process %d", owner, cmd.Process.Pid)
	}
	if want := []string{sock.ReasonCapSysPtrace, sock.ReasonCapDACReadSearch}; !slices.Equal(got.Reasons, want) {
		t.Errorf("reasons %v, want %v", got.Reasons, want)
	}
}

func TestSameUserNeedsNoCapability(t *testing.T) {
	kerneltest.RequireRoot(t)
	ns := kerneltest.New(t)
	server, cmd := start(t, ns, task{Name: []byte("server"), Listen: true}, asNobody())
	got, _ := start(t, ns, task{Find: []Socket{server.Socket}}, asNobody())
	if owner := got.Owners[server.Socket.Cookie]; owner.PID != cmd.Process.Pid || owner.Process != "server" {
		t.Errorf("got %+v, want process %d", owner, cmd.Process.Pid)
	}
}

func TestHidepid(t *testing.T) {
	kerneltest.RequireRoot(t)
	ns := kerneltest.New(t)
	mine, cmd := start(t, ns, task{Listen: true}, asNobody())
	other, _ := start(t, kerneltest.New(t), task{Listen: true}, nil)
	hidden := "hidepid=invisible"
	got, _ := start(t, ns, task{Procfs: &hidden, Drop: true, Find: []Socket{mine.Socket, other.Socket}}, unshareMounts)
	if owner := got.Owners[mine.Socket.Cookie]; owner.PID != cmd.Process.Pid || known(got.Owners) != 1 || got.Owners[other.Socket.Cookie].Absence != Hidden {
		t.Errorf("got %+v, want process %d alone", got.Owners, cmd.Process.Pid)
	}
	if want := []string{sock.ReasonCapSysPtrace, sock.ReasonCapDACReadSearch}; !slices.Equal(got.Reasons, want) {
		t.Errorf("reasons %v, want %v", got.Reasons, want)
	}
}

func TestOwnerWhoseLinkMayNotBeReadIsBelievedUntilItEnds(t *testing.T) {
	kerneltest.RequireRoot(t)
	f := newFinder(t, Options{})
	got, cmd := start(t, kerneltest.New(t), task{Listen: true}, nil)
	p, err := f.fs.Proc(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	owner, err := f.readProcess(p, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	held, _, err := linux.SocketsOf(t.Context(), f.proc, owner.pid, func(inode uint32) bool { return inode == got.Socket.Inode })
	if err != nil || len(held) != 1 {
		t.Fatalf("got %v, %v; want one descriptor", held, err)
	}
	link := filepath.Join(f.fdDir(owner.pid, 0), strconv.Itoa(held[0].FD))
	err = reexec.OnThread("user", func() error {
		if err := unix.Setfsuid(nobody); err != nil { // and no CAP_DAC_READ_SEARCH
			return err
		}
		if _, err := linux.SocketInode(link); !errors.Is(err, os.ErrPermission) {
			t.Errorf("the link can be read: %v", err)
		}
		if !f.holds(owner.identity, link, got.Socket.Inode) {
			t.Error("the owner has lost its socket")
		}
		if err := cmd.Process.Kill(); err != nil {
			return err
		}
		if err := unix.Waitid(unix.P_PID, owner.pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
			return err
		}
		if f.holds(owner.identity, link, got.Socket.Inode) {
			t.Error("a zombie has the socket")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// The process is there, and its name is not.
func TestHidepidFromASearcher(t *testing.T) {
	searcher(t)
	other, _ := start(t, kerneltest.New(t), task{Listen: true}, nil)
	hidden := "hidepid=invisible"
	got, _ := start(t, kerneltest.New(t), task{Procfs: &hidden, Search: true, Drop: true, Find: []Socket{other.Socket}}, unshareMounts)
	if want := map[uint64]Owner{other.Socket.Cookie: {Absence: Hidden}}; !maps.Equal(got.Owners, want) {
		t.Errorf("got %+v, want %+v", got.Owners, want)
	}
}

func unshareMounts(cmd *kerneltest.Cmd) {
	cmd.SysProcAttr = &unix.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
}

func TestPIDNamespaceShowsItsOwnProcesses(t *testing.T) {
	kerneltest.RequireRoot(t)
	ns := kerneltest.New(t)
	other, _ := start(t, ns, task{Listen: true}, nil)
	options := ""
	got, _ := start(t, ns, task{Procfs: &options, Find: []Socket{other.Socket}}, func(cmd *kerneltest.Cmd) {
		cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWPID, Unshareflags: unix.CLONE_NEWNS}
	})
	if want := map[uint64]Owner{other.Socket.Cookie: {Absence: Hidden}}; !maps.Equal(got.Owners, want) {
		t.Errorf("got %+v, want %+v", got.Owners, want)
	}
	if want := []string{sock.ReasonPIDNamespace}; !slices.Equal(got.Reasons, want) {
		t.Errorf("reasons %v, want %v", got.Reasons, want)
	}
}
