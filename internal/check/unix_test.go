package check

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/unixsocket"
	"sockstate_exporter/internal/report"
	"sockstate_exporter/internal/report/unixreport"
)

// checkUnix runs the command with --json, wants the exit status and the code, and returns the place.
func checkUnix(t *testing.T, ns *kerneltest.NetNS, code int, diagnosis codes.Code, args ...string) unixreport.Place {
	t.Helper()
	r := run(t, command(t, ns, append([]string{"--json"}, args...)...))
	var out struct {
		Outcome report.Outcome
		Ports   []report.PortReport
		Unix    []unixreport.Place
	}
	if err := json.Unmarshal([]byte(r.stdout), &out); err != nil || len(out.Unix) != 1 || out.Ports == nil {
		t.Fatalf("%v\n%s%s", err, r.stdout, r.stderr)
	}
	p := out.Unix[0]
	if r.code != code || out.Outcome != p.Outcome {
		t.Errorf("exit status %d, want %d\n%s%s", r.code, code, r.stdout, r.stderr)
	}
	switch {
	case diagnosis == "" && p.Diagnosis != nil, diagnosis != "" && (p.Diagnosis == nil || p.Diagnosis.Code != diagnosis):
		t.Errorf("the diagnosis is %+v, want %q", p.Diagnosis, diagnosis)
	}
	return p
}

func TestUnixSocket(t *testing.T) {
	ns, path := kerneltest.New(t), filepath.Join(t.TempDir(), "app.sock")
	text := func(want string) {
		t.Helper()
		got, _, _ := strings.Cut(run(t, command(t, ns, path)).stdout, "\n")
		if !strings.HasPrefix(got, want) {
			t.Errorf("the first line is %q, want %q", got, want)
		}
	}

	checkUnix(t, ns, ExitFree, "", path)
	text(path + ": free")

	fd := unixsocket.Listen(t, ns, path)
	p := checkUnix(t, ns, ExitBlocked, codes.UnixInUse, path)
	if len(p.Sockets) != 1 || p.Sockets[0].Owner == nil || int(p.Sockets[0].Owner.PID) != os.Getpid() || *p.Sockets[0].Limit != 5 || !*p.Sockets[0].Reached {
		t.Errorf("in use by %+v, want this process", p.Sockets)
	}
	text(fmt.Sprintf("%s: in use by ", path))

	_ = unix.Close(fd)
	p = checkUnix(t, ns, ExitBlocked, codes.UnixStaleFile, path)
	if p.Remove != "rm "+path || !strings.Contains(p.Diagnosis.Remedy, p.Remove) {
		t.Errorf("to remove the file: %q", p.Remove)
	}
	text(path + ": blocked by a stale file, nobody listens there; remove it: rm " + path)
}

func TestUnixListenerThatIsCutOff(t *testing.T) {
	ns, path := kerneltest.New(t), filepath.Join(t.TempDir(), "app.sock")
	unixsocket.Listen(t, ns, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	p := checkUnix(t, ns, ExitFree, "", path)
	if p.Unreached == nil || p.Unreached.Code != codes.UnixUnlinked || len(p.Sockets) != 1 || *p.Sockets[0].Reached {
		t.Errorf("a listener without its file: %+v", p)
	}
	unixsocket.Listen(t, ns, path)
	p = checkUnix(t, ns, ExitBlocked, codes.UnixInUse, path)
	if p.Unreached == nil || p.Unreached.Code != codes.UnixShadowed || len(p.Sockets) != 2 {
		t.Errorf("two listeners: %+v", p)
	}
}

// The command finds sockets of other network namespaces, and names them.
func TestUnixSocketOfAnotherNetworkNamespace(t *testing.T) {
	kerneltest.RequireRoot(t)
	path := filepath.Join(t.TempDir(), "app.sock")
	unixsocket.Listen(t, kerneltest.New(t), path)
	// No process runs in that namespace: only connect() shows that somebody listens.
	checkUnix(t, kerneltest.New(t), ExitBlocked, codes.UnixInUse, path)
}

func TestUnixAbstractName(t *testing.T) {
	ns := kerneltest.New(t)
	checkUnix(t, ns, ExitFree, "", "@sockstate-check")
	unixsocket.Listen(t, ns, "@sockstate-check")
	p := checkUnix(t, ns, ExitBlocked, codes.UnixInUse, "@sockstate-check")
	if p.Name != "@sockstate-check" || p.Remove != "" {
		t.Errorf("got %+v", p)
	}
}

func TestUnixPathThatCannotBeBound(t *testing.T) {
	ns, dir := kerneltest.New(t), t.TempDir()
	checkUnix(t, ns, ExitBlocked, codes.UnixNoSocket, dir)
	checkUnix(t, ns, ExitBlocked, codes.UnixDirectoryMissing, dir+"/no/app.sock")
	for _, bad := range []string{"/" + strings.Repeat("x", 108), "run/app.sock", "@", "/run/"} {
		if r := run(t, command(t, ns, bad)); r.code != ExitError || r.stdout != "" || !strings.Contains(r.stderr, fmt.Sprintf("%q: ", bad)) {
			t.Errorf("%s: exit status %d, %q, %q", bad, r.code, r.stdout, r.stderr)
		}
	}
}

func TestUnixSocketBesideAPort(t *testing.T) {
	ns, path := kerneltest.New(t), filepath.Join(t.TempDir(), "app.sock")
	_ = unix.Close(unixsocket.Listen(t, ns, path))
	r := run(t, command(t, ns, "4840", path))
	if lines := strings.Split(r.stdout, "\n"); r.code != ExitBlocked || lines[0] != "4840: free" || !strings.HasPrefix(lines[1], path+": blocked") {
		t.Errorf("exit status %d\n%s", r.code, r.stdout)
	}
}

func TestWaitForUnixSocket(t *testing.T) {
	ns, path := kerneltest.New(t), filepath.Join(t.TempDir(), "app.sock")
	fd := unixsocket.Listen(t, ns, path)
	cmd := command(t, ns, "--wait=10m", path)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 4096)
	n, err := stderr.Read(line)
	if err != nil || !strings.HasPrefix(string(line[:n]), "waiting: "+path+": in use by ") {
		t.Fatalf("it says %q, %v", line[:n], err)
	}
	_ = unix.Close(fd)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the path is free: %v", err)
	}
}
