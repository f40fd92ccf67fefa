package deploy

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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
	Entrypoint  []string          `json:"entrypoint"`
	Command     []string          `json:"command"`
	Environment map[string]string `json:"environment"`
	Volumes     []string          `json:"volumes"`
	Restart     string            `json:"restart"`
	DependsOn   map[string]struct {
		Condition string `json:"condition"`
	} `json:"depends_on"`
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
			if _, err := os.Stat(path); err != nil {
				t.Errorf("%s: %s: %v", name, to, err)
			}
		}
		if name != "exporter" && !strings.Contains(s.Image, ":") {
			t.Errorf("%s runs whichever version of %s", name, s.Image)
		}
	}
}

// files are what the service of that name writes, in a directory of the test.
func files(t *testing.T) string {
	t.Helper()
	service, root := compose(t).Services["files"], t.TempDir()
	script := strings.Join(service.Command, "\n")
	for to, from := range service.mounts(t) {
		script = strings.ReplaceAll(script, to+"/", filepath.Join("../../deploy/compose", from)+"/")
	}
	for _, dir := range []string{"rules", "dashboards"} {
		if !slices.Contains(service.Volumes, dir+":/files/"+dir) {
			t.Errorf("the service has the volumes %v", service.Volumes)
		}
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	run(t, exec.Command(service.Entrypoint[0], append(service.Entrypoint[1:], strings.ReplaceAll(script, "/files/", root+"/"))...))
	return root
}

func TestComposedPrometheusTakesItsConfigurationAndRules(t *testing.T) {
	promtool := kerneltest.RequireCommand(t, "promtool")
	root := t.TempDir()
	for to, from := range compose(t).Services["prometheus"].mounts(t) {
		// Paths of the container, in a directory of the test.
		text := strings.ReplaceAll(read(t, filepath.Join("../../deploy/compose", from)), "/etc/prometheus/rules/", files(t)+"/rules/")
		write(t, root+to, text)
	}
	out := run(t, exec.Command(promtool, "check", "config", root+"/etc/prometheus/prometheus.yml"))
	if !strings.Contains(out, "is valid prometheus config file syntax") || !strings.Contains(out, "1 rule files found") {
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

// The links lead to what is composed.
func TestComposedFilesHaveNoAddressOfAnExample(t *testing.T) {
	paths, err := filepath.Glob(files(t) + "/*/*")
	if err != nil || len(paths) != 4 {
		t.Fatalf("%v, %v; want the rules and three dashboards", paths, err)
	}
	for _, path := range append(paths, "../../alerts/alertmanager.example.yml", "../../deploy/compose/prometheus.yml") {
		if text := read(t, path); strings.Contains(text, "://") && regexp.MustCompile(`://[\w.]*example`).MatchString(text) {
			t.Errorf("%s has an address of an example", filepath.Base(path))
		} else if strings.HasSuffix(path, ".json") && !strings.Contains(text, `"http://localhost:3000/public/sockstate/runbooks"`) {
			t.Errorf("%s does not know where the runbooks are", filepath.Base(path))
		}
	}
	grafana := compose(t).Services["grafana"].mounts(t)
	if from := grafana["/usr/share/grafana/public/sockstate"]; from != "../../docs" {
		t.Errorf("Grafana serves %q as documentation", from)
	}
}

// Nobody here starts them. They are the versions of the parts that the tests do know.
func TestComposedVersionsAreThoseOfTheTests(t *testing.T) {
	m := regexp.MustCompile(`github.com/prometheus/prometheus v0\.(\d)(\d\d)\.(\d+)\n`).FindStringSubmatch(read(t, "../go.mod"))
	var schema struct {
		DevDependencies map[string]string `json:"devDependencies"`
	}
	if err := yaml.Unmarshal([]byte(read(t, "../../dashboards/schema/package.json")), &schema); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"prometheus": fmt.Sprintf("docker.io/prom/prometheus:v%s.%s.%s", m[1], strings.TrimLeft(m[2], "0"), m[3]),
		"grafana":    "docker.io/grafana/grafana:" + schema.DevDependencies["@grafana/schema"],
	} {
		if got := compose(t).Services[name].Image; got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}
