package linux

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
)

func TestLinkInode(t *testing.T) {
	for _, test := range []struct {
		kind, link string
		want       uint64
		ok         bool
	}{
		{"socket", "socket:[1]", 1, true},
		{"socket", "socket:[4294967295]", 4294967295, true},
		{"net", "net:[4026531840]", 4026531840, true},
		{"socket", "socket:[18446744073709551616]", 0, false},
		{"socket", "socket:[12345", 0, false},
		{"socket", "socket:12345]", 0, false},
		{"socket", "socket:[]", 0, false},
		{"socket", "socket:[-1]", 0, false},
		{"socket", "socket:[1] (deleted)", 0, false},
		{"socket", "pipe:[1]", 0, false},
		{"socket", "/tmp/socket:[1]", 0, false},
		{"socket", "", 0, false},
	} {
		if got, ok := LinkInode(test.kind, test.link); ok != test.ok || ok && got != test.want {
			t.Errorf("LinkInode(%q, %q) = %d, %v; want %d, %v", test.kind, test.link, got, ok, test.want, test.ok)
		}
	}
}

func TestPIDsAreInOrderAndHoldThisProcess(t *testing.T) {
	pids, err := PIDs("/proc")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.IsSorted(pids) {
		t.Errorf("not in order: %v", pids)
	}
	if !slices.Contains(pids, os.Getpid()) {
		t.Errorf("process %d is not among %v", os.Getpid(), pids)
	}
}

func TestIsKernelThread(t *testing.T) {
	proc := t.TempDir()
	for pid, test := range []struct {
		stat string
		want bool
	}{
		{"2 (kthreadd) S 0 0 0 0 -1 2129984 0 0", true},
		{"9 (a) (b) S 0 0 0 0 -1 2097152 0 0", true},
		{"1 (systemd) S 0 1 1 0 -1 4194560 0 0", false},
		{"7 (2129984 2129984 2129984) S 0 0 0 0 -1 0 0 0", false},
		{"3 (short) S 0 0", false},
		{"", false},
	} {
		dir := filepath.Join(proc, strconv.Itoa(pid))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "stat"), []byte(test.stat), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := IsKernelThread(proc, pid); got != test.want {
			t.Errorf("%q: got %v, want %v", test.stat, got, test.want)
		}
	}
	if IsKernelThread("/proc", os.Getpid()) {
		t.Error("this process is taken for a thread of the kernel")
	}
	if IsKernelThread(proc, 1000) {
		t.Error("a process that is not there is taken for a thread of the kernel")
	}
}
