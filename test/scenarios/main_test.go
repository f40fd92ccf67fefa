package scenarios

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/mounts"
	"sockstate_exporter/internal/kerneltest/reexec"
	"sockstate_exporter/internal/kerneltest/tracers"
	"sockstate_exporter/internal/pages"
	"sockstate_exporter/internal/report"
	"sockstate_exporter/test/launch"
)

func TestMain(m *testing.M) {
	reexec.Play(map[string]func([]string) error{goServer: serveGo})
	mounts.PrivateTracefs()
	// They wait for most of the time, also where there are few CPUs.
	if err := flag.Set("test.parallel", "16"); err != nil {
		panic(err)
	}
	kerneltest.Main(m)
}

// TestScenarios plays all scenarios beside each other, with one exporter.
func TestScenarios(t *testing.T) {
	t.Parallel()
	kerneltest.RequireRoot(t)
	tracers.Share(t)
	shared := t.TempDir()
	ns := kerneltest.New(t)
	e := launch.New(t, ns, "--watch.unix="+shared+"/*.sock")
	e.Run(t)
	works := false
	for line := range launch.Metrics(e.Get(t, "/metrics")).Samples("sockstate_feature_available", `feature="bind_tracing"`) {
		works = strings.HasSuffix(line, " 1")
	}
	if !works {
		kerneltest.Skip(t, "binds are not traced here:\n%s", e.Log)
	}
	for name, scenario := range map[string]func(*host){
		"dnsmasq beside the stub of systemd-resolved":      dnsmasqBesideStub,
		"a server in Python, beside another and dnsmasq":   pythonServer,
		"two responders of multicast DNS":                  multicastDNS,
		"two servers on the port of NTP":                   sharedPort,
		"a server on a port of the kernel":                 kernelPort,
		"a server in Go, beside another and after a crash": goServers,
		"ssh-agent after a crash":                          sshAgent,
		"two gunicorns on one path":                        gunicorns,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			scenario(&host{t: t, ns: ns, dir: t.TempDir(), watched: shared, exporter: e})
		})
	}
}

// A host has an exporter.
type host struct {
	t        *testing.T
	ns       *kerneltest.NetNS
	dir      string // for files
	watched  string // where Unix sockets are watched
	exporter *launch.Exporter
}

// needs skips where a program is not there.
func (h *host) needs(programs ...string) {
	h.t.Helper()
	for _, program := range programs {
		kerneltest.RequireCommand(h.t, program)
	}
}

// A program is one that was started.
type program struct {
	*kerneltest.Cmd
	log *kerneltest.Log
}

// prepare prepares a program.
func (h *host) prepare(name string, args ...string) *program {
	h.t.Helper()
	p := &program{h.ns.Command(h.t, name, args...), new(kerneltest.Log)}
	p.Stdout, p.Stderr, p.Dir = p.log, p.log, h.dir
	return p
}

func (p *program) started(t *testing.T) *program {
	t.Helper()
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	return p
}

func (h *host) start(name string, args ...string) *program {
	h.t.Helper()
	return h.prepare(name, args...).started(h.t)
}

// system starts a program in a mount namespace with an empty /run, and with a user. setup is a part of a
// shell script that comes before it.
func (h *host) system(user, setup, name string, args ...string) *program {
	h.t.Helper()
	const script = `set -e
mount -t tmpfs none /run
for file in passwd group; do
  cp /etc/$file /run/$file
  grep -q "^$TEST_USER:" /run/$file || echo "$TEST_USER:x:64999:64999::/:/bin/false" >>/run/$file
  mount --bind /run/$file /etc/$file
done
eval "$TEST_SETUP"
exec "$@"`
	p := h.prepare("unshare", append([]string{"--mount", "sh", "-c", script, "sh", name}, args...)...)
	p.Env = append(os.Environ(), "TEST_USER="+user, "TEST_SETUP="+setup)
	return p.started(h.t)
}

// end ends a program by a signal, and waits for it.
func (p *program) end(t *testing.T, signal syscall.Signal) {
	t.Helper()
	if err := p.Process.Signal(signal); err != nil {
		t.Fatalf("%s: %v\n%s", p.Path, err, p.log)
	}
	_ = p.Wait()
}

// fails waits until a program ends, as it cannot bind.
func (p *program) fails(t *testing.T) {
	t.Helper()
	if err := p.Wait(); err == nil {
		t.Fatalf("%s worked, want it to fail\n%s", p.Path, p.log)
	}
}

// eventually waits until something is so. what describes what is there instead.
func eventually(t *testing.T, what func() string, is func() bool) {
	t.Helper()
	for until := time.Now().Add(launch.Patience); !is(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal(what())
		}
	}
}

// has waits until ss lists a UDP socket on a port with all the texts.
func (h *host) has(p *program, port string, texts ...string) {
	h.t.Helper()
	list := ""
	eventually(h.t, func() string { return "no socket with " + strings.Join(texts, ", ") + ":\n" + list + p.log.String() }, func() bool {
		list = h.ns.Output(h.t, "ss", "-Huanp", "sport = :"+port)
		for line := range strings.Lines(list) {
			found := true
			for _, text := range texts {
				found = found && strings.Contains(line, text)
			}
			if found {
				return true
			}
		}
		return false
	})
}

// shows waits until a metric with labels has the value.
func (h *host) shows(value, metric string, labels ...string) {
	h.t.Helper()
	got := ""
	eventually(h.t, func() string { return metric + " is not " + value + ":\n" + got }, func() bool {
		got = ""
		for line := range launch.Metrics(h.exporter.Get(h.t, "/metrics")).Samples(metric, labels...) {
			got += line + "\n"
		}
		return strings.HasSuffix(got, " "+value+"\n")
	})
}

// isThere waits until a program listens at a path.
func isThere(t *testing.T, p *program, path string) {
	t.Helper()
	eventually(t, func() string { return "nobody listens on " + path + "\n" + p.log.String() }, func() bool {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		return unix.Connect(fd, &unix.SockaddrUnix{Name: path}) == nil
	})
}

// failure waits until /failures has a program with a diagnosis of the code that names the holder, and returns the
// diagnosis. Before the exporter has looked, a diagnosis names nobody.
func (h *host) failure(process string, code codes.Code, holder string) *report.Diagnosis {
	h.t.Helper()
	var found *report.Diagnosis
	others := ""
	eventually(h.t, func() string {
		return "no " + process + " with " + string(code) + ", held by " + holder + ":\n" + others
	}, func() bool {
		var page pages.FailuresPage
		if err := json.Unmarshal([]byte(h.exporter.Get(h.t, "/failures?format=json&netns=")), &page); err != nil {
			h.t.Fatal(err)
		}
		others = ""
		note := func(owner *report.Owner, d *report.Diagnosis) {
			switch {
			case owner == nil || owner.Process != process || d == nil:
			case d.Code == code && holderOf(d) == holder:
				found = d
			default:
				others += string(d.Code) + ": " + d.Sentence + "\n"
			}
		}
		for i := range page.Failures {
			note(page.Failures[i].Owner, page.Failures[i].Diagnosis)
		}
		for i := range page.Unix {
			note(page.Unix[i].Owner, page.Unix[i].Diagnosis)
		}
		return found != nil
	})
	return found
}

func holderOf(d *report.Diagnosis) string {
	if d.Holder == nil {
		return ""
	}
	return d.Holder.Process
}

// advises checks what the remedy of a diagnosis says.
func (h *host) advises(d *report.Diagnosis, remedy string) {
	h.t.Helper()
	if !strings.Contains(d.Remedy, remedy) {
		h.t.Errorf("%s: %q, want %q in it", d.Sentence, d.Remedy, remedy)
	}
}

// check runs `check`, and wants its exit status and its texts.
func (h *host) check(status int, what string, texts ...string) {
	h.t.Helper()
	cmd := h.ns.Command(h.t, launch.Path, "check", what)
	cmd.Args[0] = "sockstate_exporter"
	e := launch.Of(h.t, h.ns, "", cmd)
	e.Binary = launch.Binary(h.t)
	if got := e.Wait(h.t); got != status {
		h.t.Errorf("check %s exits with %d, want %d\n%s", what, got, status, e.Log)
	}
	for _, text := range texts {
		if !strings.Contains(e.Log.String(), text) {
			h.t.Errorf("check %s lacks %q:\n%s", what, text, e.Log)
		}
	}
}

// write writes a file, and returns its path.
func (h *host) write(name, content string) string {
	h.t.Helper()
	path := filepath.Join(h.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		h.t.Fatal(err)
	}
	return path
}
