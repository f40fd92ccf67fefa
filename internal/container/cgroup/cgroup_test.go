package cgroup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/procfs"

	"sockstate_exporter/internal/sock"
)

func only(s, chars string) bool { return strings.Trim(s, chars) == "" }

// cgroupCases are in testdata/cgroup, a file each: what is expected, one "# key: value" a line,
// then a cgroup file as the kernel writes it.
func cgroupCases(t testing.TB) map[string]cgroupCase {
	t.Helper()
	files, err := filepath.Glob("testdata/cgroup/*")
	if err != nil || len(files) == 0 {
		t.Fatalf("no test data: %v", err)
	}
	cases := make(map[string]cgroupCase)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		cases[filepath.Base(file)] = parseCase(t, string(text))
	}
	return cases
}

type cgroupCase struct {
	want    Shown
	service string
	podUID  string
	manager bool
	text    string
}

func parseCase(t testing.TB, text string) (c cgroupCase) {
	t.Helper()
	for line := range strings.Lines(text) {
		comment, ok := strings.CutPrefix(line, "# ")
		if !ok {
			c.text += line
			continue
		}
		key, value, _ := strings.Cut(strings.TrimSpace(comment), ": ")
		switch key {
		case "within":
			c.want.Within = value
		case "unit":
			c.want.Unit = value
		case "runtime":
			c.want.Runtime = value
		case "container":
			c.want.Container = value
		case "service":
			c.service = value
		case "pod":
			c.podUID = value
		case "manager":
			c.manager = true
		default:
			t.Fatalf("unknown key %q", key)
		}
	}
	return c
}

// readCgroups has the library read a cgroup file.
func readCgroups(t testing.TB, text string) ([]procfs.Cgroup, error) {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "1"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "1", "cgroup"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	fs, err := procfs.NewFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	p, err := fs.Proc(1)
	if err != nil {
		t.Fatal(err)
	}
	return p.Cgroups()
}

func TestUnitAndContainerOfCgroups(t *testing.T) {
	for name, c := range cgroupCases(t) {
		t.Run(name, func(t *testing.T) {
			cgroups, err := readCgroups(t, c.text)
			if err != nil {
				t.Fatal(err)
			}
			p := Of(cgroups)
			got := p.Shown()
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if got.Service() != c.service {
				t.Errorf("service %q, want %q", got.Service(), c.service)
			}
			if p.Manager != c.manager {
				t.Errorf("a service manager: %t, want %t", p.Manager, c.manager)
			}
			if p.PodUID != c.podUID {
				t.Errorf("pod %q, want %q", p.PodUID, c.podUID)
			}
		})
	}
}

func TestNamesThatAreNoUnitsAreLeftOut(t *testing.T) {
	for _, path := range []string{
		"/", "", "//", "/foo", "/system.slice", "/.service", "/..", "/../..",
		"/a\"b.service", "/<script>.service", "/new\nline.service", "/\xff.service", "/ü.service",
		"/a b.service", "/" + strings.Repeat("x", 250) + ".service",
		"/docker-0123.scopes", "/lxc.payload.", "/machine-.scopes", "/lxc/<b>",
	} {
		if got := Parse(path); got != (Place{}) {
			t.Errorf("%q: got %+v, want nothing", path, got)
		}
	}
}

// Whatever an ordinary user calls a cgroup, it is below one that the system made for that user.
func FuzzHostileCgroup(f *testing.F) {
	for _, name := range []string{
		"app.slice/postgresql.service", "../system.slice/postgresql.service", "/docker/" + strings.Repeat("a", 64), "_/__x.service",
		"lxc/web1/system.slice/ssh.service", "init.scope/ssh.service", "a:b:" + strings.Repeat("0", 64), "user@0.service/x.scope", "\xff.service", " (deleted)",
	} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		for own, within := range map[string]string{
			"/user.slice/user-1000.slice/user@1000.service": "user@1000",
			"/user.slice/user-1000.slice/session-3.scope":   "session-3.scope",
			"/user/mallory/0":           "user@mallory",
			"/system.slice/foo.service": "foo.service",
			"/system.slice/docker-" + strings.Repeat("b", 64) + ".scope": "docker-" + strings.Repeat("b", 12),
		} {
			at := Parse(own + "/" + name)
			owner := at.Shown()
			who, _, inner := strings.Cut(owner.Service(), "/")
			top := Parse(own)
			system := top.Shown()
			if s := owner.Service(); s != "" && s != system.Service() && (!inner || who != within) {
				t.Errorf("%s below %s is service %q", name, own, s)
			}
		}
	})
}

func FuzzParsePath(f *testing.F) {
	for _, c := range cgroupCases(f) {
		for line := range strings.Lines(c.text) {
			if fields := strings.SplitN(strings.TrimSpace(line), ":", 3); len(fields) == 3 {
				f.Add(fields[2])
			}
		}
	}
	f.Add(`/machine.slice/machine-\x\x2\x2d\xff.scope`)
	f.Add("/x/init.scope")
	f.Add("/_/__/_.service/_docker-/:/a:b:c")
	f.Fuzz(func(t *testing.T, path string) {
		p := Parse(path)
		for _, name := range []string{p.Unit, p.Container} {
			if name != "" && (!plain(name) || len(name) > maxName) {
				t.Errorf("%q: got name %q", path, name)
			}
		}
		if (p.Runtime == "") != (p.Container == "") {
			t.Errorf("%q: got runtime %q and container %q", path, p.Runtime, p.Container)
		}
		if p.Manager && p.Unit == "" && p.Container == "" {
			t.Errorf("%q: a service manager without unit", path)
		}
		if id := p.ID(); id.PodUID != "" && !only(id.PodUID, "0123456789abcdefABCDEF-") || id != (sock.ContainerID{}) && p.ContainerWithin != "" {
			t.Errorf("%q: got %+v of %+v", path, id, p)
		}
		owner := p.Shown()
		within, name, inner := strings.Cut(owner.Service(), "/")
		if within != "" && !plain(within) || inner && !plain(name) {
			t.Errorf("%q: service %q", path, owner.Service())
		}
	})
}
