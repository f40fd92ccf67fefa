package unixfailures

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/opener"
	"sockstate_exporter/internal/kerneltest/reexec"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/unixsock"
	"sockstate_exporter/internal/unixsock/unixlook"
)

// A host has a recorder that follows a real tracer.
type host struct {
	*Recorder
	ns *kerneltest.NetNS

	mu       sync.Mutex
	reported []Failure
}

func newHost(t *testing.T) *host {
	t.Helper()
	kerneltest.RequireRoot(t)
	tracer := opener.OrSkip(t, func() (*bindtrace.Tracer, error) { return bindtrace.New(bindtrace.Options{NoConnects: true}) })
	finder, err := owner.New(owner.Options{Wait: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	h := &host{ns: kerneltest.New(t)}
	if err := tracer.SetWatch([]uint32{uint32(h.ns.Inode())}, nil); err != nil {
		t.Fatal(err)
	}
	h.Recorder = New(Config{
		Tracer: tracer, Owners: finder, Looker: unixlook.New(unixlook.Config{Own: h.ns.FD(), Owners: finder}), OwnNetns: uint32(h.ns.Inode()),
		OnFailure: func(f Failure) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.reported = append(h.reported, f)
		},
	})
	var following sync.WaitGroup
	following.Go(func() {
		if err := h.Follow(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		_ = tracer.Close()
		following.Wait()
		_ = finder.Close()
	})
	return h
}

// run runs a process in a role, and returns its pid and what it says first.
func (h *host) run(t *testing.T, role string, args ...string) (pid int, says string) {
	t.Helper()
	cmd := h.ns.Command(t, "/proc/self/exe", args...)
	cmd.Env = reexec.RoleEnv(role, "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	if slices.Contains(args, "private") {
		cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS
	}
	_, out := reexec.StartPiped(t, cmd)
	line, err := out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if role == "bind" && !slices.Contains(args, "stay") {
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	return cmd.Process.Pid, strings.TrimSpace(line)
}

// failure waits until the failure of the process has a diagnosis by a look, or by its error.
func (h *host) failure(t *testing.T, pid int) Failure {
	t.Helper()
	for until := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		state, err := h.Take()
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(state.Recent, func(f Failure) bool { return int(f.PID) == pid })
		if i >= 0 && !strings.HasSuffix(state.Recent[i].Diagnosis.Sentence, "has not looked what") {
			return state.Recent[i]
		}
		if time.Now().After(until) {
			t.Fatalf("no diagnosis of process %d in %+v", pid, state.Recent)
		}
	}
}

func TestDiagnoses(t *testing.T) {
	h := newHost(t)
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	stale, err := bind(path("stale.sock"))
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(stale)
	if err := os.Mkdir(path("directory.sock"), 0o755); err != nil {
		t.Fatal(err)
	}
	server, says := h.run(t, "serve", path("live.sock"))
	if says != "<nil>" {
		t.Fatal(says)
	}
	if _, says := h.run(t, "serve", "@sockstate-failures"); says != "<nil>" {
		t.Fatal(says)
	}
	for _, tt := range []struct {
		args     []string
		code     codes.Code
		sentence string
	}{
		{[]string{path("stale.sock")}, codes.UnixStaleFile, "the file " + path("stale.sock") + " is probably left over: no socket that could be seen has it"},
		{[]string{path("stale.sock"), "relative", "stay"}, codes.UnixStaleFile, "the file stale.sock is probably left over"},
		{[]string{path("live.sock")}, codes.UnixInUse, "listens on " + path("live.sock")},
		{[]string{path("live.sock"), "private", "stay"}, codes.UnixStaleFile, "the file " + path("live.sock") + " is probably left over"},
		{[]string{path("directory.sock")}, codes.UnixNoSocket, "a directory is at " + path("directory.sock")},
		{[]string{path("no/app.sock")}, codes.UnixDirectoryMissing, "the directory " + path("no") + " does not exist"},
		{[]string{"@sockstate-failures"}, codes.UnixInUse, "listens on @sockstate-failures"},
	} {
		pid, says := h.run(t, "bind", tt.args...)
		if says == "<nil>" {
			t.Errorf("bind to %v works", tt.args)
			continue
		}
		f := h.failure(t, pid)
		if f.Diagnosis.Code != tt.code || !strings.Contains(f.Diagnosis.Sentence, tt.sentence) {
			t.Errorf("%v: %s: %q, want %s: %q", tt.args, f.Diagnosis.Code, f.Diagnosis.Sentence, tt.code, tt.sentence)
		}
		if tt.args[0] == path("live.sock") && tt.code == codes.UnixInUse && f.Diagnosis.Holder.PID != server {
			t.Errorf("%v: the holder is %+v, want process %d", tt.args, f.Diagnosis.Holder, server)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.reported) == 0 {
		t.Error("no failure was reported")
	}
	state, err := h.Take()
	if err != nil {
		t.Fatal(err)
	}
	var sum uint64
	for _, c := range state.Counts {
		if c.Netns == uint32(h.ns.Inode()) {
			sum += c.N
		}
	}
	if sum != 7 {
		t.Errorf("%d failures are counted, want 7", sum)
	}
}

// What a path meant for a process that has ended is known only in the exporter's mount namespace.
func TestPathOfAProcessThatHasEnded(t *testing.T) {
	dir := t.TempDir()
	fd, err := bind(filepath.Join(dir, "stale.sock"))
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(fd)
	r := New(Config{Looker: unixlook.New(unixlook.Config{})})
	for _, tt := range []struct {
		event bindtrace.UnixEvent
		code  codes.Code
		says  string
	}{
		{bindtrace.UnixEvent{Path: dir + "/stale.sock", MountNS: r.mntns}, codes.UnixStaleFile, "left over"},
		{bindtrace.UnixEvent{Path: dir + "/stale.sock", MountNS: 1}, codes.Unknown, "another mount namespace"},
		{bindtrace.UnixEvent{Path: dir + "/stale.sock"}, codes.Unknown, "another mount namespace"},
		{bindtrace.UnixEvent{Path: "stale.sock", MountNS: r.mntns}, codes.Unknown, "relative"},
		{bindtrace.UnixEvent{Path: dir + "/gone.sock", MountNS: r.mntns}, codes.Unknown, "was gone before the exporter could look"},
	} {
		tt.event.PID, tt.event.Errno = 1<<30, unix.EADDRINUSE
		r.add(&tt.event)
		r.look(t.Context())
		if d := r.recent()[0].Diagnosis; d.Code != tt.code || !strings.Contains(d.Sentence, tt.says) {
			t.Errorf("%+v: %s: %q, want %s: %q", tt.event, d.Code, d.Sentence, tt.code, tt.says)
		}
	}
}

// The exporter may have a mount namespace of its own, as in a sandbox of systemd. Then another process in
// that of the call shows what the path means.
func TestPathOfAProcessThatHasEndedBesideAnother(t *testing.T) {
	h := newHost(t)
	path := filepath.Join(t.TempDir(), "app.sock")
	pid, _ := h.run(t, "bind", path, "private", "stay") // and the file is stale there
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/mnt", pid), &st); err != nil {
		t.Fatal(err)
	}
	r := New(Config{Looker: unixlook.New(unixlook.Config{})})
	r.add(&bindtrace.UnixEvent{Path: path, MountNS: uint32(st.Ino), PID: 1 << 30, Errno: unix.EADDRINUSE})
	r.look(t.Context())
	if d := r.recent()[0].Diagnosis; d.Code != codes.UnixStaleFile {
		t.Errorf("%s: %q, want a stale file", d.Code, d.Sentence)
	}
}

// Whatever users do, a user keeps the rows of the latest failures, and a place among those that wait.
func TestUsersHaveShares(t *testing.T) {
	r := New(Config{Looker: unixlook.New(unixlook.Config{})})
	fail := func(user uint32, path string) {
		r.add(&bindtrace.UnixEvent{Errno: unix.EADDRINUSE, Path: path, User: user, Netns: 1, MountNS: 1})
	}
	fail(1, "/run/first.sock")
	for i := range 1000 {
		fail(2, fmt.Sprintf("/tmp/%d.sock", i))
	}
	fail(3, "/run/last.sock")
	names := make(map[unixsock.Name]bool)
	for _, f := range r.recent() {
		names[f.Name] = true
	}
	if len(names) > maxRows || !names[unixsock.Name{Path: "/run/first.sock"}] || !names[unixsock.Name{Path: "/run/last.sock"}] {
		t.Errorf("the rows are %v", names)
	}
	waiting := r.take()
	if len(waiting) != 2+maxWaiting/userShare {
		t.Errorf("%d failures wait, want one of each other user and %d of the crowd", len(waiting), maxWaiting/userShare)
	}
}
