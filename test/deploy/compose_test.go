package deploy

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"sockstate_exporter/internal/kerneltest"
)

// A composition has the fields that ours may have: another is a mistake, or is to be added.
type composition struct {
	Name     string               `json:"name"`
	Services map[string]*composed `json:"services"`
	Volumes  map[string]any       `json:"volumes"`
}

type composed struct {
	Build       string            `json:"build"`
	Image       string            `json:"image"`
	NetworkMode string            `json:"network_mode"`
	PID         string            `json:"pid"`
	User        string            `json:"user"`
	ReadOnly    bool              `json:"read_only"`
	CapDrop     []string          `json:"cap_drop"`
	CapAdd      []string          `json:"cap_add"`
	SecurityOpt []string          `json:"security_opt"`
	Command     []string          `json:"command"`
	Environment map[string]string `json:"environment"`
	Volumes     []string          `json:"volumes"`
	Restart     string            `json:"restart"`
}

func compose(t *testing.T) composition {
	t.Helper()
	var c composition
	if err := yaml.UnmarshalStrict([]byte(read(t, "../../deploy/compose/compose.yaml")), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// mounts are the files and directories of the host that a service sees, by where.
func (s *composed) mounts(t *testing.T) map[string]string {
	t.Helper()
	out := make(map[string]string)
	for _, volume := range s.Volumes {
		from, to, ok := strings.Cut(volume, ":")
		if !ok {
			t.Fatalf("volume %q", volume)
		}
		if strings.HasPrefix(from, ".") || strings.HasPrefix(from, "/") {
			out[strings.TrimSuffix(to, ":ro")] = from
		}
	}
	return out
}

// absent are parts that this tree has not got at all.
func absent(path string) bool {
	dir, _, _ := strings.Cut(strings.TrimPrefix(path, "../../"), "/")
	_, err := os.Stat("../../" + dir)
	return strings.HasPrefix(path, "../../") && err != nil
}

func TestComposedExporterHasTheDocumentedCapabilitiesAndNoOthers(t *testing.T) {
	e := compose(t).Services["exporter"]
	var added []string
	for _, name := range e.CapAdd {
		added = append(added, "CAP_"+name)
	}
	slices.Sort(added)
	if want := documented(t); !slices.Equal(added, want) || !slices.Equal(e.CapDrop, []string{"ALL"}) {
		t.Errorf("capabilities %v, docs/privileges.md has %v; dropped %v", added, want, e.CapDrop)
	}
	if e.NetworkMode != "host" || e.PID != "host" || !e.ReadOnly {
		t.Errorf("the exporter is %+v", e)
	}
	if _, err := os.Stat(filepath.Join("../../deploy/compose", e.Build, "Dockerfile")); err != nil {
		t.Error(err)
	}
}

func TestComposedFilesExist(t *testing.T) {
	for name, s := range compose(t).Services {
		for to, from := range s.mounts(t) {
			path := from
			if strings.HasPrefix(from, ".") {
				path = filepath.Join("../../deploy/compose", from)
			}
			if _, err := os.Stat(path); err != nil && !absent(from) {
				t.Errorf("%s: %s: %v", name, to, err)
			}
		}
		if name != "exporter" && !strings.Contains(s.Image, ":") {
			t.Errorf("%s runs whichever version of %s", name, s.Image)
		}
	}
}

func TestComposedPrometheusTakesItsConfigurationAndRules(t *testing.T) {
	promtool := kerneltest.RequireCommand(t, "promtool")
	prometheus := compose(t).Services["prometheus"]
	root := t.TempDir()
	want := 0
	for to, from := range prometheus.mounts(t) {
		if absent(from) {
			continue
		}
		// Paths of the container, in a directory of the test.
		text := strings.ReplaceAll(read(t, filepath.Join("../../deploy/compose", from)), "/etc/prometheus/", root+"/etc/prometheus/")
		write(t, root+to, text)
		want += strings.Count(to, "/rules/")
	}
	out := run(t, exec.Command(promtool, "check", "config", root+"/etc/prometheus/prometheus.yml"))
	if !strings.Contains(out, "is valid prometheus config file syntax") || want > 0 && !strings.Contains(out, fmt.Sprintf("%d rule files found", want)) {
		t.Errorf("promtool says\n%s", out)
	}
	for _, s := range compose(t).Services {
		for _, arg := range s.Command {
			if _, listen, ok := strings.Cut(arg, "web.listen-address="); ok && !strings.HasPrefix(listen, "127.0.0.1:") {
				t.Errorf("listens on %s", listen)
			}
		}
	}
}
