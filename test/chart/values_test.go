package chart

import (
	"encoding/json"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// Helm says which value is wrong, and what would be right.
func TestWrongValuesAreRefused(t *testing.T) {
	const urls = "runbookUrl: https://a\nprometheusRule:\n  enabled: true\n"
	for values, want := range map[string]string{
		"image: {repository: ''}":                                        "image.repository is missing",
		"dashboards: {enabled: true}":                                    "runbookUrl is missing",
		"prometheusRule: {enabled: 1}":                                   "/prometheusRule/enabled': got number, want boolean",
		"prometheusRule: {enabled: true}":                                "runbookUrl is missing",
		urls + "  alerts: {SockstateListenerDorps: {for: 1m}}":           "prometheusRule.alerts.SockstateListenerDorps: there is no such alert. The alerts are SockstateAcceptQueueSaturated, ",
		urls + "  alerts: {SockstateBindBlocked: {threshold: 1}}":        "prometheusRule.alerts.SockstateBindBlocked.threshold: the alert has none",
		urls + "  alerts: {SockstateListenerDrops: {limit: 1}}":          "additional properties 'limit' not allowed",
		urls + "  alerts: {SockstateListenerDrops: {for: 5}}":            "got number, want string",
		"runbookUrl: git.internal/runbooks":                              "/runbookUrl': 'git.internal/runbooks' does not match pattern",
		"feature: {owners: false}":                                       "additional properties 'feature' not allowed",
		"features: {owner: false}":                                       "additional properties 'owner' not allowed",
		"port: 0":                                                        "/port': minimum: got 0, want 1",
		"extraArgs: [watch.port=1]":                                      "/extraArgs/0'",
		"web: {config: {a: b}, existingSecret: c}":                       "web.config and web.existingSecret are both set",
		"web: {tlsSecret: a}":                                            "web.tlsSecret is set, and no web.yml names its files",
		"podMonitor: {enabled: true}\nserviceMonitor: {enabled: true}":   "podMonitor.enabled and serviceMonitor.enabled are both set",
		"podNames: {containerd: true, containerdTasks: /run/containerd}": "gives root on the node",
		"podNames: {containerd: true, containerdTasks: /run/containerd/io.containerd.runtime.v2.task/..}": "gives root on the node",
	} {
		if got := refused(t, values); !strings.Contains(got, want) {
			t.Errorf("with\n%s\nhelm says\n%s\nwant %q", values, got, want)
		}
	}
}

// leaves are the values that are no maps, or empty ones, by their path.
func leaves(prefix string, value any, into map[string]any) {
	m, ok := value.(map[string]any)
	if !ok || len(m) == 0 {
		into[prefix] = value
		return
	}
	for key, child := range m {
		leaves(strings.TrimPrefix(prefix+"."+key, "."), child, into)
	}
}

// at is the value at a path.
func at(values any, path string) any {
	for _, key := range strings.Split(path, ".") {
		m, _ := values.(map[string]any)
		values = m[key]
	}
	return values
}

func TestReadmeHasEveryValueWithItsDefault(t *testing.T) {
	var values map[string]any
	if err := yaml.UnmarshalStrict([]byte(read(t, chart+"/values.yaml")), &values); err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(read(t, chart+"/README.md"), "\n## Values\n")
	described := make(map[string]bool)
	for line := range strings.Lines(table) {
		cells := strings.Split(line, " | ")
		if len(cells) < 3 || !strings.HasPrefix(line, "| `") {
			continue
		}
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[0], -1) {
			described[m[1]] = true
			text, err := json.Marshal(at(values, m[1]))
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Trim(cells[1], "` "); got != "see values.yaml" && got != string(text) {
				t.Errorf("the default of %s is %s, the README has %s", m[1], text, got)
			}
			if at(values, m[1]) == nil {
				t.Errorf("the README has %s, which values.yaml has not", m[1])
			}
		}
	}
	all := make(map[string]any)
	leaves("", values, all)
	for _, path := range slices.Sorted(maps.Keys(all)) {
		for part := path; !described[part]; {
			i := strings.LastIndex(part, ".")
			if i < 0 {
				t.Errorf("the README does not have %s", path)
				break
			}
			part = part[:i]
		}
	}
}

// A value that the schema does not have would be refused; one that only the schema has would do
// nothing.
func TestSchemaHasTheValuesAndNoOthers(t *testing.T) {
	var values map[string]any
	if err := yaml.Unmarshal([]byte(read(t, chart+"/values.yaml")), &values); err != nil {
		t.Fatal(err)
	}
	var schema map[string]any
	if err := json.Unmarshal([]byte(read(t, chart+"/values.schema.json")), &schema); err != nil {
		t.Fatal(err)
	}
	monitor := at(schema, "definitions.monitor")
	var compare func(path string, schema, value any)
	compare = func(path string, schema, value any) {
		if at(schema, "$ref") != nil {
			schema = monitor
		}
		properties, ok := at(schema, "properties").(map[string]any)
		if !ok {
			return
		}
		m, _ := value.(map[string]any)
		if got, want := slices.Sorted(maps.Keys(properties)), slices.Sorted(maps.Keys(m)); !slices.Equal(got, want) {
			t.Errorf("%s: the schema has %v, values.yaml has %v", path, got, want)
		}
		for key, child := range properties {
			compare(path+"."+key, child, m[key])
		}
	}
	compare("values", schema, values)
}

func TestVersionIsThatOfTheChangelog(t *testing.T) {
	m := regexp.MustCompile(`(?m)^## v?(\d+\.\d+\.\d+)`).FindStringSubmatch(read(t, "../../CHANGELOG.md"))
	var head struct{ Version, AppVersion string }
	if err := yaml.Unmarshal([]byte(read(t, chart+"/Chart.yaml")), &head); err != nil {
		t.Fatal(err)
	}
	if m == nil || head.Version != m[1] || head.AppVersion != m[1] {
		t.Errorf("the chart is %s of %s, the changelog begins with %v", head.Version, head.AppVersion, m)
	}
}

// yamlBlocks are the examples of values in a page.
func yamlBlocks(t *testing.T, path string) []string {
	t.Helper()
	var out []string
	for _, part := range strings.Split(read(t, path), "```yaml\n")[1:] {
		block, _, _ := strings.Cut(part, "```")
		out = append(out, block)
	}
	return out
}

func TestChartTakesTheExamplesOfTheDocumentation(t *testing.T) {
	ours, alerts := yamlBlocks(t, chart+"/README.md"), yamlBlocks(t, "../../alerts/README.md")
	if len(ours) != 2 || len(alerts) != 1 {
		t.Fatalf("%d and %d examples, want 2 and 1", len(ours), len(alerts))
	}
	for _, values := range ours {
		render(t, values)
	}
	if got := rules(t, "prometheusRule: {enabled: true}\n"+withURLs); reflect.DeepEqual(got, rules(t, strings.Replace(alerts[0], "  alerts:", "  enabled: true\n  alerts:", 1)+withURLs)) {
		t.Error("the example of alerts/README.md changes nothing")
	}
}

// What people apply leads nowhere by default.
func TestNothingRenderedHasAnAddressOfAnExample(t *testing.T) {
	for _, path := range ciValues(t) {
		text, err := template(t, read(t, path))
		if err != nil {
			t.Fatal(err)
		}
		if found := regexp.MustCompile(`\S*example\.(com|org|net)\S*`).FindString(text); found != "" {
			t.Errorf("with %s the chart has %s", path, found)
		}
	}
}
