package scenarios

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/kerneltest/reexec"
)

// goServer is a role of this binary, and the name of its process.
const goServer = "invoice-server"

// serveGo listens on a path and accepts nothing, as net.Listen makes it.
func serveGo(args []string) error {
	l, err := new(net.ListenConfig).Listen(context.Background(), "unix", args[0])
	if err != nil {
		return err
	}
	defer l.Close()
	select {}
}

func (h *host) goServer(path string) *program {
	h.t.Helper()
	name := filepath.Join(h.dir, goServer)
	if _, err := reexec.Named(h.dir, goServer); err != nil && !strings.Contains(err.Error(), "exists") {
		h.t.Fatal(err)
	}
	p := h.prepare(name, path)
	p.Env = reexec.RoleEnv(goServer)
	return p.started(h.t)
}

// remove does what the remedy of a stale file says: its command.
func remove(t *testing.T, remedy string) {
	t.Helper()
	_, after, found := strings.Cut(remedy, "Remove it: ")
	command, _, _ := strings.Cut(after, ". ")
	if !found || !strings.HasPrefix(command, "rm ") {
		t.Fatalf("no command in %q", remedy)
	}
	if out, err := exec.CommandContext(t.Context(), "sh", "-c", command).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
}

func goServers(h *host) {
	path := filepath.Join(h.dir, "invoice.sock")
	first := h.goServer(path)
	isThere(h.t, first, path)
	h.goServer(path).fails(h.t)
	h.wants(h.failure(goServer, codes.UnixInUse), goServer, "Stop")
	h.check(1, path, goServer+" (pid ")

	first.end(h.t, unix.SIGKILL)
	h.goServer(path).fails(h.t)
	d := h.failure(goServer, codes.UnixStaleFile)
	h.wants(d, "", "rm "+path)
	h.check(1, path, "rm "+path)
	remove(h.t, d.Remedy)
	isThere(h.t, h.goServer(path), path)
}

func sshAgent(h *host) {
	h.needs("ssh-agent")
	path := filepath.Join(h.dir, "agent.sock")
	agent := func() *program { return h.start("ssh-agent", "-D", "-a", path) }
	first := agent()
	isThere(h.t, first, path)
	first.end(h.t, unix.SIGKILL)
	agent().fails(h.t)
	d := h.failure("ssh-agent", codes.UnixStaleFile)
	h.wants(d, "", "rm "+path)
	remove(h.t, d.Remedy)
	isThere(h.t, agent(), path)
}

// gunicorn takes a path over from whoever listens there. When the first one ends, it removes the file of the
// second.
func gunicorns(h *host) {
	h.needs("gunicorn")
	path := filepath.Join(h.watched, "gunicorn.sock")
	h.write("app.py", "def app(environ, start_response):\n    start_response('200 OK', [])\n    return []\n")
	// One whose file is gone fails to end its worker, which notices after half of the timeout.
	gunicorn := func() *program { return h.start("gunicorn", "--bind=unix:"+path, "--timeout=4", "app:app") }
	unreached := func(code codes.Code) {
		h.t.Helper()
		h.shows("1", "sockstate_unix_path_unreached_listeners", `diagnosis="`+string(code)+`"`)
	}
	first := gunicorn()
	isThere(h.t, first, path)
	h.check(1, path, "gunicorn", fmt.Sprint(first.Process.Pid))

	second := gunicorn()
	unreached(codes.UnixShadowed)
	h.check(1, path, "no client reaches it; the path leads to the socket of gunicorn", "Restart the server that is to have the path")

	first.end(h.t, unix.SIGTERM)
	unreached(codes.UnixUnlinked)
	h.check(0, path, fmt.Sprint(second.Process.Pid), "its file is gone", "Restart the server")
	second.end(h.t, unix.SIGTERM)
	third := gunicorn()
	isThere(h.t, third, path)
	h.check(1, path, fmt.Sprint(third.Process.Pid))
}
