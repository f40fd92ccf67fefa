package alerts_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/test/promcheck"
)

const scalePage = "../../docs/scale.md"

// blocks are the fenced blocks of a language.
func blocks(t *testing.T, path, language string) []string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, part := range strings.Split(string(data), "```"+language+"\n")[1:] {
		text, _, _ := strings.Cut(part, "```")
		found = append(found, text)
	}
	if len(found) == 0 {
		t.Fatalf("%s has no block of %s", path, language)
	}
	return found
}

func TestPrometheusTakesTheExamplesOfScale(t *testing.T) {
	promtool := kerneltest.RequireCommand(t, "promtool")
	for i, text := range blocks(t, scalePage, "yaml") {
		path := filepath.Join(t.TempDir(), fmt.Sprintf("prometheus%d.yml", i))
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), promtool, "check", "config", "--lint=all", path).CombinedOutput(); err != nil {
			t.Errorf("promtool check config: %v\n%s%s", err, out, text)
		}
	}
}

func TestQueriesOfScaleAskForMetricsThatExist(t *testing.T) {
	queries, err := promcheck.LoadRunbook(scalePage)
	if err != nil {
		t.Fatal(err)
	}
	checkQueries(t, knownMetrics(t, loadRules(t)), queries)
}

// A relabelConfig is what Prometheus reads under metric_relabel_configs, as far as the examples
// use it.
type relabelConfig struct {
	SourceLabels []string `yaml:"source_labels"`
	Regex        string
	Action       string
}

func relabelConfigs(t *testing.T, text string) []relabelConfig {
	t.Helper()
	var config struct {
		Jobs []struct {
			Relabel []relabelConfig `yaml:"metric_relabel_configs"`
		} `yaml:"scrape_configs"`
	}
	if err := yaml.Unmarshal([]byte(text), &config); err != nil {
		t.Fatal(err)
	}
	if len(config.Jobs) != 1 || len(config.Jobs[0].Relabel) == 0 {
		t.Fatalf("no metric_relabel_configs in\n%s", text)
	}
	return config.Jobs[0].Relabel
}

// drops says whether the configuration drops a series.
func drops(t *testing.T, configs []relabelConfig, labels labelSet) bool {
	t.Helper()
	for _, c := range configs {
		if c.Action != "drop" {
			t.Fatalf("action %q", c.Action)
		}
		var values []string
		for _, l := range c.SourceLabels {
			values = append(values, labels[l])
		}
		if regexp.MustCompile("^(?:" + c.Regex + ")$").MatchString(strings.Join(values, ";")) {
			return true
		}
	}
	return false
}

func TestExamplesOfScaleDropWhatTheySay(t *testing.T) {
	var examples [][]relabelConfig
	for _, text := range blocks(t, scalePage, "yaml") {
		examples = append(examples, relabelConfigs(t, text))
	}
	for _, c := range []struct {
		example int
		labels  labelSet
		want    bool
	}{
		{0, labelSet{"__name__": "sockstate_tcp_listener_accept_queue", "port": "80"}, true},
		{0, labelSet{"__name__": "sockstate_tcp_listener_accept_queue_limit", "port": "80"}, true},
		{0, labelSet{"__name__": "sockstate_tcp_listener_accept_queue_ratio", "port": "80"}, false},
		{1, labelSet{"__name__": "sockstate_tcp_sockets", "port": "30000"}, true},
		{1, labelSet{"__name__": "sockstate_watched_port_info", "port": "32999"}, true},
		{1, labelSet{"__name__": "sockstate_tcp_sockets", "port": "3000"}, false},
		{1, labelSet{"__name__": "sockstate_tcp_sockets", "port": "33000"}, false},
		{1, labelSet{"__name__": "sockstate_bind_failures_total", "port": "other"}, false},
		{2, labelSet{"__name__": "sockstate_tcp_sockets", "port": "80", "netns": "blue"}, true},
		{2, labelSet{"__name__": "sockstate_tcp_listener_reuseaddr", "port": "80", "netns": "blue"}, true},
		{2, labelSet{"__name__": "sockstate_tcp_sockets", "port": "80"}, false},
		{2, labelSet{"__name__": "sockstate_tcp_listener_info", "port": "80", "netns": "blue"}, false},
		{2, labelSet{"__name__": "sockstate_bind_failures_total", "port": "80", "netns": "blue"}, false},
	} {
		if c.example >= len(examples) {
			t.Fatalf("%d examples, want more than %d", len(examples), c.example)
		}
		if got := drops(t, examples[c.example], c.labels); got != c.want {
			t.Errorf("example %d drops %v: %t, want %t", c.example+1, c.labels, got, c.want)
		}
	}
}
