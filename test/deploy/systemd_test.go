package deploy

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	libcap "kernel.org/pub/linux/libs/security/libcap/cap"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/test/launch"
)

const (
	service      = "../../deploy/systemd/sockstate_exporter.service"
	socket       = "../../deploy/systemd/socket-activation/sockstate_exporter.socket"
	socketDropIn = "../../deploy/systemd/socket-activation/socket.conf"
)

// maxExposure is what `systemd-analyze security` may find, of 10.
const maxExposure = 3.0

// unitRoot is a root with the targets of this system, and these of our files.
func unitRoot(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	targets, err := filepath.Glob("/usr/lib/systemd/system/*.target")
	if err != nil || len(targets) == 0 {
		kerneltest.Skip(t, "needs the units of systemd: %v", err)
	}
	for _, path := range targets {
		write(t, filepath.Join(root, path), read(t, path))
	}
	for to, from := range files {
		write(t, filepath.Join(root, to), read(t, from))
	}
	write(t, filepath.Join(root, "usr/bin/sockstate_exporter"), "")
	if err := os.Chmod(filepath.Join(root, "usr/bin/sockstate_exporter"), 0o755); err != nil {
		t.Fatal(err)
	}
	return root
}

// variants are the sets of files that we say to install.
func variants() map[string]map[string]string {
	const lib, etc = "usr/lib/systemd/system/", "etc/systemd/system/sockstate_exporter.service.d/"
	return map[string]map[string]string{
		"service": {lib + "sockstate_exporter.service": service},
		"socket activation": {
			lib + "sockstate_exporter.service": service,
			lib + "sockstate_exporter.socket":  socket,
			etc + "socket.conf":                socketDropIn,
		},
	}
}

func TestSystemdFindsNothingWrongInTheUnits(t *testing.T) {
	analyze := kerneltest.RequireCommand(t, "systemd-analyze")
	for name, files := range variants() {
		t.Run(name, func(t *testing.T) {
			args := []string{"verify", "--man=no", "--root=" + unitRoot(t, files)}
			for path := range files {
				if base := filepath.Base(path); !strings.HasSuffix(base, ".conf") {
					args = append(args, base)
				}
			}
			out, err := exec.Command(analyze, args...).CombinedOutput()
			if err != nil || len(out) > 0 {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

func TestSystemdFindsTheUnitsHardened(t *testing.T) {
	analyze := kerneltest.RequireCommand(t, "systemd-analyze")
	for name, files := range variants() {
		t.Run(name, func(t *testing.T) {
			out := run(t, exec.Command(analyze, "security", "--no-pager", "--offline=true", "--root="+unitRoot(t, files), "sockstate_exporter.service"))
			m := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`).FindStringSubmatch(out)
			if m == nil {
				t.Fatalf("no exposure level in\n%s", out)
			}
			if level, err := strconv.ParseFloat(m[1], 64); err != nil || level > maxExposure {
				t.Errorf("exposure level %s, want at most %v (%v)\n%s", m[1], maxExposure, err, out)
			}
		})
	}
}

// documented are the capabilities that docs/privileges.md sums up.
func documented(t *testing.T) []string {
	t.Helper()
	m := regexp.MustCompile(`together:\n\n {4}((?:CAP_\w+ ?)+)\n`).FindStringSubmatch(read(t, "../../docs/privileges.md"))
	if m == nil {
		t.Fatal("docs/privileges.md sums up no capabilities")
	}
	names := strings.Fields(m[1])
	slices.Sort(names)
	return names
}

func TestUnitHasTheDocumentedCapabilitiesAndNoOthers(t *testing.T) {
	u := parseUnits(t, service)
	for _, name := range []string{"AmbientCapabilities", "CapabilityBoundingSet"} {
		got := u.words(name)
		slices.Sort(got)
		if want := documented(t); !slices.Equal(got, want) {
			t.Errorf("%s=%v, docs/privileges.md has %v", name, got, want)
		}
	}
}

// withoutAdmin skips where tracing wants CAP_SYS_ADMIN: no unit of ours gives that.
func withoutAdmin(t *testing.T) {
	t.Helper()
	text := read(t, "/proc/sys/kernel/perf_event_paranoid")
	if level, err := strconv.Atoi(strings.TrimSpace(text)); err != nil || level > 2 {
		kerneltest.Skip(t, "kernel.perf_event_paranoid is %s: tracepoints need CAP_SYS_ADMIN", text)
	}
}

// asRoot is what the exporter can do here with every privilege.
func asRoot(t *testing.T, program string) map[string]string {
	t.Helper()
	kerneltest.RequireRoot(t)
	ns := kerneltest.New(t)
	return start(t, ns, ns.Command(t, program)).features(t)
}

func exporterPath(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sockstate_exporter")
	launch.Copy(t, path)
	return path
}

func TestEveryFeatureWorksInTheSandboxOfTheUnit(t *testing.T) {
	withoutAdmin(t)
	program := exporterPath(t)
	want := asRoot(t, program)
	ns := kerneltest.New(t)
	u := parseUnits(t, service)
	e := start(t, ns, newSandbox(t, u).command(t, ns, program, u.args(t, map[string]string{"ARGS": "--watch.port=4840"})...))
	e.checkWorks(t)
	if got := e.features(t); len(want) < 3 || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("features %v, root has %v\n%s", got, want, e.Log)
	}
	if !strings.Contains(e.metrics(t), `sockstate_watched_port_info{port="4840",protocol="tcp",source="flag"} 1`) {
		t.Error("$ARGS did not arrive")
	}
	if strings.Contains(e.Log.String(), "level=ERROR") {
		t.Errorf("errors:\n%s", e.Log)
	}
}

// Each of these is in the unit for a reason, and the sandbox of the tests is one.
func TestFeaturesAreLostWithoutWhatTheUnitAllows(t *testing.T) {
	withoutAdmin(t)
	program := exporterPath(t)
	root := asRoot(t, program)
	if root["reuse_flags"] != "bpf 1" || !strings.HasSuffix(root["bind_tracing"], " 1") {
		kerneltest.Skip(t, "features %v", root)
	}
	for _, tt := range []struct{ directive, word, feature string }{
		{"AmbientCapabilities", "CAP_BPF", "bind_tracing"},
		{"AmbientCapabilities", "CAP_PERFMON", "reuse_flags"},
		{"AmbientCapabilities", "CAP_SYS_PTRACE", "owners"},
		{"CapabilityBoundingSet", "CAP_BPF", "reuse_flags"},
		{"SystemCallFilter", "bpf", "bind_tracing"},
		{"RestrictAddressFamilies", "AF_NETLINK", "sock_diag"},
	} {
		t.Run(tt.directive+" "+tt.word, func(t *testing.T) {
			ns := kerneltest.New(t)
			s := newSandbox(t, parseUnits(t, service).without(t, tt.directive, tt.word))
			if tt.directive == "CapabilityBoundingSet" {
				s.Ambient = slices.DeleteFunc(s.Ambient, func(v libcap.Value) bool { return !slices.Contains(s.Bounding, v) })
			}
			// Without sock_diag it never gets ready.
			e := startUntil(t, ns, s.command(t, ns, program), "/-/healthy")
			if got := e.features(t)[tt.feature]; got == root[tt.feature] {
				t.Errorf("%s is %q all the same", tt.feature, got)
			}
		})
	}
}

const probeEnv = "SOCKSTATE_TEST_PROBE"

// probe tries what the unit forbids.
func probe() {
	say := func(what string, err error) { fmt.Printf("%s: %v\n", what, err) }
	_, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	say("AF_UNIX", err)
	say("unshare", unix.Unshare(unix.CLONE_NEWNET))
	_, err = unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
	say("write and execute", err)
	_, err = unix.PtraceGetEventMsg(os.Getppid())
	say("ptrace", err)
	say("chown", unix.Chown("/proc/self/exe", 0, 0))
	say("/tmp", unix.Access("/tmp", unix.W_OK))
	status, err := os.ReadFile("/proc/self/status")
	say("status", err)
	fmt.Print(string(status))
}

func TestSandboxOfTheTestsForbidsWhatTheUnitForbids(t *testing.T) {
	ns := kerneltest.New(t)
	s := newSandbox(t, parseUnits(t, service))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := s.command(t, ns, self)
	cmd.Env = append(cmd.Env, probeEnv+"=1")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	var caps uint64
	for _, v := range s.Ambient {
		caps |= 1 << v
	}
	for _, line := range []string{
		"AF_UNIX: " + unix.EAFNOSUPPORT.Error(),
		"unshare: " + unix.EPERM.Error(),
		"write and execute: " + unix.EPERM.Error(),
		"ptrace: " + unix.EPERM.Error(),
		"chown: " + unix.EPERM.Error(),
		"/tmp: " + unix.EROFS.Error(),
		"NoNewPrivs:\t1",
		"Seccomp:\t2",
		"Uid:\t65534\t65534\t65534\t65534",
		"Groups:\t ",
		fmt.Sprintf("CapEff:\t%016x", caps),
		fmt.Sprintf("CapBnd:\t%016x", caps),
		fmt.Sprintf("CapAmb:\t%016x", caps),
	} {
		if !slices.Contains(strings.Split(out.String(), "\n"), line) {
			t.Errorf("no line %q", line)
		}
	}
	if t.Failed() {
		t.Logf("%s", &out)
	}
}

func TestServesOnTheSocketThatSystemdMade(t *testing.T) {
	program := exporterPath(t)
	listen := parseUnits(t, socket)["Socket.ListenStream"]
	if !slices.Equal(listen, []string{"10048"}) {
		t.Fatalf("ListenStream=%v", listen)
	}
	ns := kerneltest.New(t)
	var f *os.File
	err := ns.Run(func() error {
		l, err := net.ListenTCP("tcp", &net.TCPAddr{Port: 10048})
		if err != nil {
			return err
		}
		defer l.Close()
		f, err = l.File()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	u := parseUnits(t, service, socketDropIn)
	s := newSandbox(t, u)
	s.Listen = true
	cmd := s.command(t, ns, program, u.args(t, nil)...)
	// Command has appended the program, and fixed the sandbox: Listen came first.
	cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	start(t, ns, cmd).checkWorks(t)
}
