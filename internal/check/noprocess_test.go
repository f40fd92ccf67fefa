package check

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/sockfiles"
	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/opener"
	"sockstate_exporter/internal/report"
)

func requireFiles(t *testing.T) {
	t.Helper()
	kerneltest.RequireRoot(t)
	opener.OrSkip(t, func() (*sockfiles.Reader, error) { return sockfiles.New(nil) })
}

// A listener on its way through a Unix socket is in no process. Root has seen them all, so ss would not say more.
func TestListenerThatNoProcessShows(t *testing.T) {
	requireFiles(t)
	ns := kerneltest.New(t)
	l := ns.Listen(t, at(any4), kerneltest.Options{})
	way, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = unix.Close(way[0]), unix.Close(way[1]) })
	if err := unix.Sendmsg(way[0], []byte{0}, unix.UnixRights(l.FD()), nil, 0); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	_, p := answers(t, ns, ExitBlocked, "4840")
	d := p.Diagnosis
	if d == nil || d.Code != codes.OtherListener || !strings.Contains(d.Sentence, "a socket that no process shows listens on 0.0.0.0:4840") || strings.Contains(d.Remedy, "`ss") {
		t.Errorf("diagnosis %+v, want that no process shows the listener", d)
	}
}

// A program that inherited the listener of a server that is gone is no server that could restart.
func TestRestartBesideAnInheritedListener(t *testing.T) {
	requireFiles(t)
	ns := kerneltest.New(t)
	l := ns.Listen(t, at(any4), kerneltest.Options{ReuseAddr: true})
	if _, err := unix.FcntlInt(uintptr(l.FD()), unix.F_SETFD, 0); err != nil {
		t.Fatal(err)
	}
	helper := startServer(t, ns, asHelper)
	if first, _ := answers(t, ns, ExitFree, "--restart", "4840"); !strings.Contains(first, "a restart would work") {
		t.Errorf("beside its server: %q", first)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	first, p := answers(t, ns, ExitBlocked, "--restart", "4840")
	if p.Diagnosis == nil || p.Diagnosis.Code != codes.InheritedListener || p.Outcome != report.Blocked || int(p.Diagnosis.Holder.PID) != helper {
		t.Errorf("diagnosis %+v, want that of process %d", p.Diagnosis, helper)
	}
	if !strings.Contains(first, "; a restart would fail: "+asHelper+" (pid ") {
		t.Errorf("first line %q", first)
	}
}
