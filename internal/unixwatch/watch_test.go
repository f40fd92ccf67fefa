package unixwatch

import (
	"context"
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
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/unixsock"
	"sockstate_exporter/internal/unixsock/unixlook"
)

func TestMain(m *testing.M) { kerneltest.Main(m) }

func listener(t *testing.T, path string) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 5)); err != nil {
		t.Fatal(err)
	}
	return fd
}

// watcher watches the specs, with all owners known.
func watcher(t *testing.T, retention time.Duration, specs ...string) *Watcher {
	t.Helper()
	finder, err := owner.New(owner.Options{Wait: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { finder.Close() })
	cfg := Config{Look: unixlook.New(unixlook.Config{Owners: finder}).Look, Retention: retention}
	for _, s := range specs {
		spec, err := ParseSpec(s)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Specs = append(cfg.Specs, spec)
	}
	return New(cfg)
}

func take(t *testing.T, w *Watcher) State {
	t.Helper()
	s := w.Take(t.Context())
	if s.Err != nil {
		kerneltest.Skip(t, "%v", s.Err)
	}
	return s
}

// paths are those of a state, with what they are.
func paths(s *State) string {
	var out []string
	for i := range s.Paths {
		p := &s.Paths[i]
		out = append(out, fmt.Sprintf("%s %d %d/%d", filepath.Base(p.Name.Path), p.State, len(p.Holders), len(p.CutOff)))
	}
	return strings.Join(out, ", ")
}

func TestWatchedPathsShowTheirQueueAndWhoIsCutOff(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "app.sock")
	w := watcher(t, time.Minute, path, dir+"/*.sock")
	s := take(t, w)
	if got := paths(&s); got != fmt.Sprintf("app.sock %d 0/0", unixsock.Free) {
		t.Errorf("before: %s", got)
	}
	listener(t, path)
	client, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(client)
	if err := unix.Connect(client, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	s = take(t, w)
	if got := paths(&s); got != fmt.Sprintf("app.sock %d 1/0", unixsock.InUse) || s.Paths[0].Shadowed || s.Paths[0].Unlinked {
		t.Fatalf("listening: %s", got)
	}
	if h := &s.Paths[0].Holders[0]; h.RQueue != 1 || h.WQueue != 5 || h.Owner.PID != os.Getpid() {
		t.Errorf("the listener is %+v", h)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	s = take(t, w)
	if got := paths(&s); got != fmt.Sprintf("app.sock %d 0/1", unixsock.Free) || !s.Paths[0].Unlinked || s.Paths[0].Shadowed {
		t.Errorf("its file is gone: %s", got)
	}
	listener(t, path)
	s = take(t, w)
	if got := paths(&s); got != fmt.Sprintf("app.sock %d 1/1", unixsock.InUse) || !s.Paths[0].Unlinked || !s.Paths[0].Shadowed {
		t.Errorf("two listeners: %s", got)
	}
}

// What a pattern has found stays as long as a server listens, and for the retention after that.
func TestPathOfAPatternStaysWhileAServerListens(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "app.sock")
	w := watcher(t, 0, dir+"/*.sock")
	if s := take(t, w); len(s.Paths) != 0 {
		t.Fatalf("before: %s", paths(&s))
	}
	fd := listener(t, path)
	take(t, w)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	w.cfg.Retention = time.Hour
	s := take(t, w)
	if got := paths(&s); got != fmt.Sprintf("app.sock %d 0/1", unixsock.Free) {
		t.Errorf("its file is gone: %s", got)
	}
	_ = unix.Close(fd)
	w.cfg.Retention = 0
	if s := take(t, w); len(s.Paths) != 0 {
		t.Errorf("after: %s", paths(&s))
	}
}

func TestPatterns(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"a", "b", ".c"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
		listener(t, filepath.Join(dir, d, "app.sock"))
	}
	if err := os.Symlink("a", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a", "file.sock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for pattern, want := range map[string][]string{
		"/*/app.sock":     {"/a/app.sock", "/b/app.sock"},
		"/[ab]/*":         {"/a/app.sock", "/b/app.sock"},
		"/.*/app.sock":    {"/.c/app.sock"},
		"/link/app.*":     {"/link/app.sock"},
		"/*/no.sock":      nil,
		"/nowhere/*.sock": nil,
	} {
		var got []string
		for _, f := range glob(dir + pattern) {
			got = append(got, strings.TrimPrefix(f.path, dir))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s finds %v, want %v", pattern, got, want)
		}
	}
	for bad, want := range map[string]string{
		"/run/[a.sock": "not a pattern: want a ] for each [, and something after each \\",
		"run/app.sock": "want an absolute path (/run/app.sock), a pattern of paths (/run/*/app.sock), or an abstract name (@app)",
		"/run/*/":      "a pattern of directories, want one of sockets, such as /run/*/app.sock",
		"@":            "an abstract name without a name, want @app",
		"":             "want an absolute path (/run/app.sock), a pattern of paths (/run/*/app.sock), or an abstract name (@app)",
	} {
		if _, err := ParseSpec(bad); err == nil || err.Error() != want {
			t.Errorf("ParseSpec(%q): %v, want %s", bad, err, want)
		}
	}
}

// Who fills a directory gets a share of the paths.
func TestUsersHaveSharesOfThePaths(t *testing.T) {
	kerneltest.RequireRoot(t)
	dir := t.TempDir()
	w := New(Config{
		Look: func(_ context.Context, queries []unixlook.Query) ([]unixsock.Verdict, error) {
			return make([]unixsock.Verdict, len(queries)), nil
		},
		Specs: []Spec{{pattern: dir + "/*.sock"}}, Retention: time.Hour,
	})
	for i := range 2 * MaxPaths {
		path := fmt.Sprintf("%s/%04d.sock", dir, i)
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Close(fd), os.Chown(path, 1234, 0)); err != nil {
			t.Fatal(err)
		}
	}
	listener(t, dir+"/z.sock") // comes last
	s := take(t, w)
	if len(s.Paths) != MaxPaths/userShare+1 || s.Dropped != 2*MaxPaths-MaxPaths/userShare {
		t.Errorf("%d paths, %d dropped", len(s.Paths), s.Dropped)
	}
	if _, ok := w.known[unixsock.Name{Path: dir + "/z.sock"}]; !ok {
		t.Error("the path of another user is not watched")
	}
	// New names get no room of those that were there a short time ago.
	w.cfg.Retention = 0
	for i := range 2 * MaxPaths {
		if err := os.Rename(fmt.Sprintf("%s/%04d.sock", dir, i), fmt.Sprintf("%s/a%04d.sock", dir, i)); err != nil {
			t.Fatal(err)
		}
	}
	if s := take(t, w); len(s.Paths) != 1 {
		t.Errorf("%d paths after all have new names, want the one of the other user", len(s.Paths))
	}
}

// A directory may be one of NFS or FUSE.
func TestDirectoryThatDoesNotAnswer(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "app.sock")
	w := watcher(t, time.Hour, dir+"/*.sock")
	listener(t, path)
	s := take(t, w)
	if got := paths(&s); got != "app.sock 1 1/0" {
		t.Fatalf("at first: %s", got)
	}
	answer := make(chan struct{})
	calls := 0 // of the one goroutine at a time
	w.search.glob = func(pattern string) []found {
		calls++
		<-answer
		return glob(pattern)
	}
	listener(t, filepath.Join(dir, "new.sock"))
	for range 3 {
		s = take(t, w)
		if got := paths(&s); got != "app.sock 1 1/0" {
			t.Errorf("while the directory does not answer: %s", got)
		}
	}
	close(answer)
	for until := time.Now().Add(time.Minute); paths(&s) != "app.sock 1 1/0, new.sock 1 1/0"; s = take(t, w) {
		if time.Now().After(until) {
			t.Fatalf("afterwards: %s", paths(&s))
		}
	}
	if calls < 2 {
		t.Errorf("%d searches, want one that waited and a new one", calls)
	}
}

// Any user can make as many files as there is room for, in /tmp.
func TestCrowdedDirectoryIsReadInPart(t *testing.T) {
	dir := t.TempDir()
	listener(t, filepath.Join(dir, "app.sock"))
	w := watcher(t, time.Hour, dir+"/*.sock")
	if s := take(t, w); len(s.Paths) != 1 {
		t.Fatalf("at first: %s", paths(&s))
	}
	for i := range maxEntries + 100 {
		if err := unix.Mknod(filepath.Join(dir, fmt.Sprint(i, ".sock")), unix.S_IFREG|0o600, 0); err != nil {
			t.Fatal(err)
		}
	}
	if s := take(t, w); paths(&s) != "app.sock 1 1/0" {
		t.Errorf("with a crowd: %s", paths(&s))
	}
	if n := len(matching(dir, "*.sock", false)); n > maxEntries {
		t.Errorf("%d names were read", n)
	}
}
