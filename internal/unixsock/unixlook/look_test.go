package unixlook

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/reexec"
	"sockstate_exporter/internal/kerneltest/unixsocket"
	"sockstate_exporter/internal/netns"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/unixsock"
	"sockstate_exporter/netlinkdiag"
)

func inode(t *testing.T, fd int) uint32 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	return uint32(st.Ino)
}

// look looks at a path from the namespace. It sees the sockets of no other.
func look(t *testing.T, ns *kerneltest.NetNS, name string, change ...func(*Config)) unixsock.Verdict {
	t.Helper()
	finder, err := owner.New(owner.Options{Wait: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer finder.Close()
	parsed, err := unixsock.ParseName(name)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Own: ns.FD(), Owners: finder}
	for _, f := range change {
		f(&cfg)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	verdicts, err := New(cfg).Look(ctx, []Query{{Name: parsed}})
	if err != nil {
		kerneltest.Skip(t, "%v", err)
	}
	return verdicts[0]
}

func connecting(c *Config) { c.Connect = true }

func inodes(sockets []unixsock.Socket) []uint32 {
	var out []uint32
	for i := range sockets {
		out = append(out, sockets[i].Inode)
	}
	return out
}

// want checks a verdict: its state, and the sockets that are reached and not.
func want(t *testing.T, v *unixsock.Verdict, state unixsock.State, holders, cutOff []uint32) {
	t.Helper()
	if v.State != state || fmt.Sprint(inodes(v.Holders)) != fmt.Sprint(holders) || fmt.Sprint(inodes(v.CutOff)) != fmt.Sprint(cutOff) {
		t.Errorf("state %d, reached %v, cut off %v; want %d, %v, %v (%+v)", v.State, inodes(v.Holders), inodes(v.CutOff), state, holders, cutOff, v)
	}
}

func TestFileOfAServerThatIsGoneIsStale(t *testing.T) {
	ns, path := kerneltest.New(t), filepath.Join(t.TempDir(), "app.sock")
	v := look(t, ns, path)
	want(t, &v, unixsock.Free, nil, nil)

	fd := unixsocket.Listen(t, ns, path)
	v = look(t, ns, path)
	want(t, &v, unixsock.InUse, []uint32{inode(t, fd)}, nil)
	if v.Holders[0].Owner.PID != os.Getpid() {
		t.Errorf("the holder is %+v, want this process", v.Holders[0].Owner)
	}

	_ = unix.Close(fd)
	v = look(t, ns, path)
	want(t, &v, unixsock.Stale, nil, nil)
	if v.Certain() {
		t.Error("sockets of other network namespaces were not looked at, and the file is stale for sure")
	}
	v = look(t, ns, path, connecting)
	want(t, &v, unixsock.Stale, nil, nil)
	if !v.Certain() || v.Try != unixsock.Refused {
		t.Errorf("connect() was answered by %d, want ECONNREFUSED", v.Try)
	}
}

func TestSocketsOfAnyTypeHoldTheirPath(t *testing.T) {
	ns := kerneltest.New(t)
	for _, typ := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_SEQPACKET} {
		path := filepath.Join(t.TempDir(), "app.sock")
		fd := unixsocket.Open(t, ns, typ, path)
		v := look(t, ns, path)
		want(t, &v, unixsock.InUse, []uint32{inode(t, fd)}, nil)
	}
}

// An accepted connection has the name and the file of its listener.
func TestAcceptedConnectionDoesNotHoldThePath(t *testing.T) {
	ns, path := kerneltest.New(t), filepath.Join(t.TempDir(), "app.sock")
	fd := unixsocket.Listen(t, ns, path)
	// The kernel makes it in the network namespace of the client (unix_stream_connect).
	client := unixsocket.Open(t, ns, unix.SOCK_STREAM, "")
	if err := unix.Connect(client, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	accepted, _, err := unix.Accept(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(accepted)
	_ = unix.Close(fd)
	v := look(t, ns, path)
	want(t, &v, unixsock.Stale, nil, nil)
}

// HAProxy and supervisord bind to another name.
func TestRenamedFileBelongsToItsSocket(t *testing.T) {
	ns, path := kerneltest.New(t), filepath.Join(t.TempDir(), "app.sock")
	fd := unixsocket.Listen(t, ns, path+".1234.tmp")
	if err := os.Rename(path+".1234.tmp", path); err != nil {
		t.Fatal(err)
	}
	v := look(t, ns, path)
	want(t, &v, unixsock.InUse, []uint32{inode(t, fd)}, nil)
}

func TestFirstOfTwoListenersIsCutOff(t *testing.T) {
	ns, path := kerneltest.New(t), filepath.Join(t.TempDir(), "app.sock")
	first := unixsocket.Listen(t, ns, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	v := look(t, ns, path)
	want(t, &v, unixsock.Free, nil, []uint32{inode(t, first)})

	second := unixsocket.Listen(t, ns, path)
	v = look(t, ns, path)
	want(t, &v, unixsock.InUse, []uint32{inode(t, second)}, []uint32{inode(t, first)})

	_ = unix.Close(second)
	v = look(t, ns, path)
	want(t, &v, unixsock.Stale, nil, []uint32{inode(t, first)})
}

func TestSymbolicLinksToTheDirectoryAreFollowed(t *testing.T) {
	ns, dir := kerneltest.New(t), t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "run"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("run", filepath.Join(dir, "var-run")); err != nil {
		t.Fatal(err)
	}
	first := unixsocket.Listen(t, ns, filepath.Join(dir, "var-run/app.sock"))
	if err := os.Remove(filepath.Join(dir, "run/app.sock")); err != nil {
		t.Fatal(err)
	}
	v := look(t, ns, filepath.Join(dir, "run/app.sock"))
	want(t, &v, unixsock.Free, nil, []uint32{inode(t, first)})
}

// start starts a server on the path, and returns its pid.
func start(t *testing.T, ns *kerneltest.NetNS, path, how string) int {
	t.Helper()
	cmd := ns.Command(t, "/proc/self/exe", path, how)
	cmd.Env = reexec.RoleEnv("server")
	cmd.Stderr = os.Stderr
	if how == "private" {
		cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS
	}
	_, out := reexec.StartPiped(t, cmd)
	awaitReady(t, out)
	return cmd.Process.Pid
}

func awaitReady(t *testing.T, out *bufio.Reader) {
	t.Helper()
	if line, err := out.ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("server says %q, %v", line, err)
	}
}

// A server in another mount namespace has the same name, and its clients there reach it.
func TestSameNameInAnotherMountNamespaceIsAnotherPlace(t *testing.T) {
	ns, path := kerneltest.New(t), filepath.Join(t.TempDir(), "app.sock")
	start(t, ns, path, "private")
	v := look(t, ns, path)
	want(t, &v, unixsock.Free, nil, nil)
	here := unixsocket.Listen(t, ns, path)
	v = look(t, ns, path)
	want(t, &v, unixsock.InUse, []uint32{inode(t, here)}, nil)
	if len(v.Unclear) != 0 {
		t.Errorf("unclear: %+v", v.Unclear)
	}
	// Where nobody knows the owner, nobody knows what the name means.
	v = look(t, ns, path, func(c *Config) { c.Owners = nil })
	if len(v.CutOff) != 0 || len(v.Unclear) != 1 {
		t.Errorf("without owners: cut off %v, unclear %v, want one that is unclear", inodes(v.CutOff), inodes(v.Unclear))
	}
}

func TestRelativeNamesMeanTheDirectoryOfTheirProcess(t *testing.T) {
	ns, path := kerneltest.New(t), filepath.Join(t.TempDir(), "app.sock")
	pid := start(t, ns, path, "chdir")
	v := look(t, ns, path)
	if v.State != unixsock.InUse || v.Holders[0].Name != "app.sock" || v.Holders[0].Owner.PID != pid {
		t.Fatalf("got %+v, want the server", v)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	v = look(t, ns, path)
	if len(v.CutOff) != 1 || v.CutOff[0].Owner.PID != pid {
		t.Errorf("its file was removed: %+v, want it cut off", v)
	}
	v = look(t, ns, filepath.Join(t.TempDir(), "app.sock"))
	want(t, &v, unixsock.Free, nil, nil)
}

// A path belongs to all network namespaces, an abstract name to one.
func TestOtherNetworkNamespaces(t *testing.T) {
	ns, path := kerneltest.New(t), filepath.Join(t.TempDir(), "app.sock")
	other := kerneltest.New(t)
	fd := unixsocket.Listen(t, other, path)
	v := look(t, ns, path)
	want(t, &v, unixsock.Stale, nil, nil)
	if v.Certain() {
		t.Error("the file is stale for sure, although only one namespace was looked at")
	}
	v = look(t, ns, path, connecting)
	want(t, &v, unixsock.InUse, nil, nil)

	pid := start(t, other, filepath.Join(t.TempDir(), "process.sock"), "")
	specs, err := netns.ParseSpec(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		t.Fatal(err)
	}
	discoverer, err := netns.New(netns.Config{Specs: []netns.Spec{specs}})
	if err != nil {
		t.Fatal(err)
	}
	v = look(t, ns, path, func(c *Config) { c.Others = discoverer.Open })
	want(t, &v, unixsock.InUse, []uint32{inode(t, fd)}, nil)
	if v.Holders[0].Netns == "" {
		t.Errorf("the holder is %+v, want its namespace", v.Holders[0])
	}

	unixsocket.Listen(t, other, "@sockstate-test")
	v = look(t, ns, "@sockstate-test", func(c *Config) { c.Others = discoverer.Open })
	want(t, &v, unixsock.Free, nil, nil)
	v = look(t, other, "@sockstate-test")
	if v.State != unixsock.InUse || len(v.Holders) != 1 {
		t.Errorf("the abstract name is %+v, want it in use", v)
	}
}

func TestWhatIsNoSocket(t *testing.T) {
	ns, dir := kerneltest.New(t), t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for path, state := range map[string]unixsock.State{
		dir + "/file":          unixsock.Occupied,
		dir + "/link":          unixsock.Occupied, // bind(2) does not follow it
		dir + "/no/app.sock":   unixsock.NoDirectory,
		dir + "/file/app.sock": unixsock.NoDirectory,
	} {
		v := look(t, ns, path)
		want(t, &v, state, nil, nil)
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err == nil {
			t.Errorf("bind to %s works", path)
		}
		_ = unix.Close(fd)
	}
}

func TestDirectoryThatMayNotBeWrittenTo(t *testing.T) {
	kerneltest.RequireRoot(t)
	dir, ns := t.TempDir(), kerneltest.New(t)
	for _, d := range []string{filepath.Dir(dir), dir} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	self, err := reexec.Named(dir, "may")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "closed"), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := ns.Command(t, self, dir+"/app.sock", dir+"/closed/app.sock").As(65534, 65534)
	cmd.Env = reexec.RoleEnv("may")
	out, err := cmd.Output()
	if want := strings.Repeat(fmt.Sprintln(unixsock.DirDenied, "permission denied"), 2); err != nil || string(out) != want {
		t.Errorf("another user sees %q, %v, want %q", out, err, want)
	}
}

// Any user can bind sockets whose names end as the path does.
func TestCrowdDoesNotDisplaceTheSocketsOfOthers(t *testing.T) {
	name := unixsock.Name{Path: "/run/app.sock"}
	c := newCollection([]Query{{Name: name}}, func(*Query, string) unixsock.File { return unixsock.File{} })
	add := func(inode, uid uint32, path string) {
		c.add(&netlinkdiag.UnixSocket{Type: netlinkdiag.UnixStream, State: netlinkdiag.StateListen, Inode: inode, UID: uid, Name: path}, "", 0)
	}
	for i := range uint32(1000) {
		add(i+1, 1000+i%100, fmt.Sprintf("/tmp/%d/app.sock", i))
	}
	for i := range uint32(100) {
		add(5000+i, 2000, "/run/app.sock")
	}
	add(9999, 0, "/run/app.sock")
	exact, of2000 := 0, 0
	for _, s := range c.places[0].sockets {
		if s.Inode == 9999 {
			exact++
		}
		if s.UID == 2000 {
			of2000++
		}
	}
	if n := len(c.places[0].sockets); n > maxNamed || exact != 1 || of2000 > maxNamedUser {
		t.Errorf("%d sockets are kept, %d of root, %d of the crowd", n, exact, of2000)
	}
}

// The exporter looks again and again, and a server leaves its file when it is killed.
func TestWhoLeftTheFileIsRemembered(t *testing.T) {
	ns, path := kerneltest.New(t), filepath.Join(t.TempDir(), "app.sock")
	finder, err := owner.New(owner.Options{Wait: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer finder.Close()
	l := New(Config{Own: ns.FD(), Owners: finder})
	lookAgain := func() unixsock.Verdict {
		verdicts, err := l.Look(t.Context(), []Query{{Name: unixsock.Name{Path: path}}})
		if err != nil {
			kerneltest.Skip(t, "%v", err)
		}
		return verdicts[0]
	}
	fd := unixsocket.Listen(t, ns, path)
	if v := lookAgain(); v.State != unixsock.InUse {
		t.Fatalf("got %+v", v)
	}
	_ = unix.Close(fd)
	if v := lookAgain(); v.State != unixsock.Stale || v.Left.PID != os.Getpid() {
		t.Errorf("the file is left over from %+v, want this process", v.Left)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(unixsocket.Listen(t, ns, path))
	if v := lookAgain(); v.State != unixsock.Stale || v.Left.Known() {
		t.Errorf("another file is left over from %+v", v.Left)
	}
}

// A path is what it is for the process that uses it.
func TestPathOfAProcessInAnotherMountNamespace(t *testing.T) {
	ns, path := kerneltest.New(t), filepath.Join(t.TempDir(), "app.sock")
	_ = unix.Close(unixsocket.Listen(t, ns, path)) // stale here, and in use there
	pid := start(t, ns, path, "private")
	finder, err := owner.New(owner.Options{Wait: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer finder.Close()
	dir, err := OpenDir("/proc", pid, path)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dir)
	verdicts, err := New(Config{Own: ns.FD(), Owners: finder}).Look(t.Context(),
		[]Query{{Name: unixsock.Name{Path: path}}, {Name: unixsock.Name{Path: path}, Dir: dir}})
	if err != nil {
		kerneltest.Skip(t, "%v", err)
	}
	want(t, &verdicts[0], unixsock.Stale, nil, nil)
	if v := &verdicts[1]; v.State != unixsock.InUse || v.Holders[0].Owner.PID != pid {
		t.Errorf("for the server: %+v, want it in use", v)
	}
}
