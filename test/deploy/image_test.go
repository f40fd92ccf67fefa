package deploy

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/mounts"
)

// A store is buildah with images and containers of its own. It needs no daemon, no registry
// and no mount that would outlive the mount namespace of the tests.
type store struct{ path, dir string }

func newStore(t *testing.T) *store {
	t.Helper()
	kerneltest.RequireRoot(t)
	kerneltest.RequireCommand(t, "unshare")
	s := &store{path: kerneltest.RequireCommand(t, "buildah"), dir: t.TempDir()}
	write(t, s.dir+"/policy.json", `{"default": [{"type": "insecureAcceptAnything"}]}`)
	write(t, s.dir+"/registries.conf", "unqualified-search-registries = []\n")
	write(t, s.dir+"/containers.conf", "[network]\n")
	return s
}

// args are those of every call, before its own.
func (s *store) args(args ...string) []string {
	return append([]string{
		// Its processes are not its children only: they go with their process namespace.
		"--pid", "--fork", "--kill-child", "--mount-proc", s.path,
		"--root", s.dir + "/root", "--runroot", s.dir + "/run", "--storage-driver", "vfs",
		"--registries-conf", s.dir + "/registries.conf",
	}, args...)
}

func (s *store) env() []string {
	return append(os.Environ(), "HOME="+s.dir, "TMPDIR="+s.dir, "BUILDAH_ISOLATION=chroot", "CONTAINERS_CONF="+s.dir+"/containers.conf")
}

func (s *store) buildah(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command("unshare", s.args(args...)...)
	cmd.Env = s.env()
	return run(t, cmd)
}

// builder makes an image of this machine's own programs, Go among them: it has no file but
// the links of a merged /usr, and the build mounts the rest.
func (s *store) builder(t *testing.T) string {
	t.Helper()
	context := s.dir + "/builder"
	write(t, context+"/Dockerfile", "FROM scratch\nCOPY root /\nENV PATH="+goroot(t)+"/bin:/usr/bin:/bin GOCACHE=/cache\n")
	for _, dir := range []string{"etc", "proc", "root", "src", "sys", "tmp", "usr", "dev"} {
		if err := os.MkdirAll(filepath.Join(context, "root", dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"bin", "lib", "lib64", "sbin"} {
		if err := os.Symlink("usr/"+dir, filepath.Join(context, "root", dir)); err != nil {
			t.Fatal(err)
		}
	}
	s.buildah(t, "bud", "--signature-policy", s.dir+"/policy.json", "--tag", "localhost/builder", context)
	return "localhost/builder"
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	return strings.TrimSpace(run(t, exec.Command("go", "env", name)))
}

func goroot(t *testing.T) string { t.Helper(); return goEnv(t, "GOROOT") }

// build builds the image of this source, without network.
func (s *store) build(t *testing.T) string {
	t.Helper()
	builder := s.builder(t)
	run(t, exec.Command("go", "mod", "download"))
	s.buildah(t, "bud", "--signature-policy", s.dir+"/policy.json", "--tag", "localhost/sockstate_exporter",
		"--network", "none",
		"--volume", "/usr:/usr:ro",
		"--volume", goroot(t)+":"+goroot(t)+":ro",
		"--volume", goEnv(t, "GOMODCACHE")+"/cache/download:/modules:ro",
		"--volume", goEnv(t, "GOCACHE")+":/cache",
		"--build-arg", "BUILDER="+builder,
		"--build-arg", "GOPROXY=file:///modules",
		"--build-arg", "GOFLAGS=-mod=mod",
		"--build-arg", "VERSION=1.2.3",
		"--build-arg", "REVISION=0123456789abcdef",
		"../..")
	return "localhost/sockstate_exporter"
}

func TestImageHoldsAStaticBinaryAndServes(t *testing.T) {
	s := newStore(t)
	image := s.build(t)

	var inspected struct {
		OCIv1 struct {
			Config struct {
				User       string
				Entrypoint []string
				Labels     map[string]string
			} `json:"config"`
		}
	}
	if err := json.Unmarshal([]byte(s.buildah(t, "inspect", "--type", "image", image)), &inspected); err != nil {
		t.Fatal(err)
	}
	config := inspected.OCIv1.Config
	if config.User != "65534:65534" || !slices.Equal(config.Entrypoint, []string{"/sockstate_exporter"}) {
		t.Errorf("runs %q as %q", config.Entrypoint, config.User)
	}
	for label, want := range map[string]string{"version": "1.2.3", "revision": "0123456789abcdef", "licenses": "Apache-2.0"} {
		if got := config.Labels["org.opencontainers.image."+label]; got != want {
			t.Errorf("label %s is %q, want %q", label, got, want)
		}
	}

	container := strings.TrimSpace(s.buildah(t, "from", "--signature-policy", s.dir+"/policy.json", "--pull-never",
		// Its profile is older than CAP_BPF; those of docker and containerd go by capabilities.
		"--security-opt", "seccomp=unconfined", image))
	root := strings.TrimSpace(s.buildah(t, "mount", container))
	var files []string
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		files = append(files, entry.Name())
	}
	if !slices.Equal(files, []string{"LICENSE", "sockstate_exporter"}) {
		t.Errorf("the image holds %v", files)
	}
	if info, err := os.Stat(root + "/sockstate_exporter"); err != nil || info.Size() > 30<<20 {
		t.Errorf("binary: %v, %v", info, err)
	} else {
		t.Logf("binary of %d bytes", info.Size())
	}

	// What a container gets with --user 0 --cap-drop ALL --cap-add ...
	t.Run("capabilities", func(t *testing.T) {
		withoutAdmin(t)
		want := asRoot(t, exporterPath(t))
		want["owners"] = "procfs pid_namespace 1" // that of unshare; --pid host has the host's
		args := []string{"run", "--isolation", "chroot", "--user", "0", "--volume", mounts.Tracefs + ":" + mounts.Tracefs + ":ro"}
		for _, name := range documented(t) {
			args = append(args, "--cap-add", name)
		}
		if got := s.features(t, container, args...); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("features %v, want %v", got, want)
		}
	})
	t.Run("nobody", func(t *testing.T) {
		got := s.features(t, container, "run", "--isolation", "chroot")
		if got["sock_diag"] != "1" || got["bind_tracing"] != "cap_bpf 0" {
			t.Errorf("features %v", got)
		}
	})
}

// features runs the container in a network namespace, and scrapes it.
func (s *store) features(t *testing.T, container string, args ...string) map[string]string {
	t.Helper()
	ns := kerneltest.New(t)
	args = append(s.args(args...), container, "/sockstate_exporter")
	cmd := ns.Command(t, "unshare", args...)
	cmd.Env = s.env()
	e := start(t, ns, cmd)
	e.checkWorks(t)
	return e.features(t)
}
