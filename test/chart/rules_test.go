package chart

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	core "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"sockstate_exporter/internal/kerneltest"
)

const (
	withURLs  = "runbookUrl: " + runbookPlace + "\ngrafanaUrl: " + grafanaPlace + "\n"
	withRules = "prometheusRule: {enabled: true}\n" + withURLs
)

// original are the rules of alerts/.
func original(t *testing.T) monitoring.PrometheusRuleSpec {
	t.Helper()
	var spec monitoring.PrometheusRuleSpec
	if err := yaml.UnmarshalStrict([]byte(read(t, rulesFile)), &spec); err != nil {
		t.Fatal(err)
	}
	return spec
}

func rules(t *testing.T, values string) monitoring.PrometheusRuleSpec {
	t.Helper()
	return only[monitoring.PrometheusRule](t, render(t, values)).Spec
}

func text(t *testing.T, value any) string {
	t.Helper()
	out, err := yaml.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// With the addresses that alerts/ has, the chart's rules are the same: so promtool's unit tests in
// alerts/tests hold for them as well.
func TestRulesAreThoseOfAlerts(t *testing.T) {
	got, want := rules(t, withRules), original(t)
	if len(want.Groups) == 0 || !reflect.DeepEqual(got, want) {
		t.Errorf("the chart has\n%s\nwant\n%s", text(t, got), text(t, want))
	}
}

// thresholds are the alerts that have one, with its default.
func thresholds(t *testing.T) map[string]string {
	t.Helper()
	out := make(map[string]string)
	for _, m := range regexp.MustCompile(`([\d.]+) # threshold of (\w+)\n`).FindAllStringSubmatch(read(t, rulesFile), -1) {
		out[m[2]] = m[1]
	}
	if len(out) == 0 {
		t.Fatal("no alert has a threshold")
	}
	return out
}

func TestThresholdsAreInTheListOfThem(t *testing.T) {
	list := make(map[string]string)
	for _, m := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| ([\\d.]+) \\|").FindAllStringSubmatch(read(t, "../../alerts/README.md"), -1) {
		list[m[1]] = m[2]
	}
	if want := thresholds(t); !reflect.DeepEqual(list, want) {
		t.Errorf("alerts/README.md has the thresholds %v, the rules have %v", list, want)
	}
	for alert := range list {
		if !strings.Contains(read(t, chart+"/README.md"), alert) {
			t.Errorf("the chart's README does not have the threshold of %s", alert)
		}
	}
}

// Each alert is changed in everything that can be changed, and nothing else is.
func TestAlertsChangeAsTheValuesSay(t *testing.T) {
	want, values := original(t), withURLs+"prometheusRule:\n  enabled: true\n  alertLabels: {team: net}\n  alerts:\n"
	limits := thresholds(t)
	for _, group := range want.Groups {
		for i := range group.Rules {
			rule := &group.Rules[i]
			for alert, old := range limits {
				mark := " # threshold of " + alert + "\n"
				rule.Expr.StrVal = strings.Replace(rule.Expr.StrVal, " "+old+mark, " 12345"+mark, 1)
			}
			if rule.Alert == "" {
				continue
			}
			values += fmt.Sprintf("    %s: {for: 7m, severity: info", rule.Alert)
			if limits[rule.Alert] != "" {
				values += ", threshold: 12345"
			}
			values += "}\n"
			seven := monitoring.Duration("7m")
			rule.For = &seven
			rule.Labels["severity"], rule.Labels["team"] = "info", "net"
		}
	}
	if got := rules(t, values); !reflect.DeepEqual(got, want) {
		t.Errorf("with\n%s\nthe chart has\n%s\nwant\n%s", values, text(t, got), text(t, want))
	}
}

func TestAlertThatIsOffIsNotThere(t *testing.T) {
	const off = "SockstateListenerDrops"
	got := rules(t, strings.Replace(withRules, "{enabled: true}", "{enabled: true, alerts: {"+off+": {enabled: false}}}", 1))
	want := original(t)
	for i := range want.Groups {
		var kept []monitoring.Rule
		for _, rule := range want.Groups[i].Rules {
			if rule.Alert != off {
				kept = append(kept, rule)
			}
		}
		want.Groups[i].Rules = kept
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the chart has\n%s\nwant\n%s", text(t, got), text(t, want))
	}
}

// Without an address of Grafana there is no link to it.
func TestLinksLeadToTheAddressesOfTheValues(t *testing.T) {
	const values = "prometheusRule: {enabled: true}\nrunbookUrl: https://git.internal/runbooks/\n"
	for _, grafana := range []string{"", "https://grafana.internal/"} {
		for _, group := range rules(t, values+"grafanaUrl: "+grafana+"\n").Groups {
			for _, rule := range group.Rules {
				if rule.Alert == "" {
					continue
				}
				if got, want := rule.Annotations["runbook_url"], "https://git.internal/runbooks/"+rule.Alert+".md"; got != want {
					t.Errorf("%s: runbook_url is %q, want %q", rule.Alert, got, want)
				}
				link, there := rule.Annotations["dashboard_url"]
				if there != (grafana != "") || there && !strings.HasPrefix(link, "https://grafana.internal/d/") {
					t.Errorf("%s: with grafanaUrl %q, dashboard_url is %q", rule.Alert, grafana, link)
				}
			}
		}
	}
}

// promtool reads what the operator hands to Prometheus.
func TestPrometheusTakesTheRules(t *testing.T) {
	promtool := kerneltest.RequireCommand(t, "promtool")
	path := filepath.Join(t.TempDir(), "rules.yml")
	for name, values := range map[string]string{"default": withRules, "full": read(t, chart+"/ci/full-values.yaml")} {
		spec, err := json.Marshal(rules(t, values))
		if err != nil {
			t.Fatal(err)
		}
		write(t, path, string(spec))
		if out, err := exec.CommandContext(t.Context(), promtool, "check", "rules", "--lint=all", "--lint-fatal", path).CombinedOutput(); err != nil {
			t.Errorf("%s: promtool: %v\n%s", name, err, out)
		}
	}
}

// `make rules` is the same for a Prometheus without Kubernetes.
func TestMakeRulesPrintsTheRules(t *testing.T) {
	kerneltest.RequireCommand(t, "helm")
	values := filepath.Join(t.TempDir(), "values.yaml")
	write(t, values, "prometheusRule: {alerts: {SockstateListenerDrops: {threshold: 50}}}\n")
	cmd := exec.CommandContext(t.Context(), kerneltest.RequireCommand(t, "make"), "-s", "-C", "../..", "rules",
		"RUNBOOK_URL="+runbookPlace, "GRAFANA_URL="+grafanaPlace, "VALUES="+values)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var got monitoring.PrometheusRuleSpec
	if err := yaml.UnmarshalStrict(out, &got); err != nil {
		t.Fatal(err)
	}
	want := rules(t, strings.Replace(withRules, "{enabled: true}", "{enabled: true, alerts: {SockstateListenerDrops: {threshold: 50}}}", 1))
	if !reflect.DeepEqual(got, want) {
		t.Errorf("make rules prints\n%s\nwant\n%s", out, text(t, want))
	}
}

func TestDashboardsAreThoseOfTheirFolder(t *testing.T) {
	const address = "https://git.internal/runbooks"
	paths, err := filepath.Glob(dashboards + "/*.json")
	if err != nil || len(paths) == 0 {
		t.Fatalf("dashboards: %v, %v", paths, err)
	}
	want := make(map[string]string)
	for _, path := range paths {
		want["sockstate-"+filepath.Base(path)] = strings.ReplaceAll(read(t, path), runbookPlace, address)
	}
	got := make(map[string]string)
	for name, object := range render(t, "dashboards: {enabled: true}\nrunbookUrl: "+address+"/\n") {
		config, ok := object.(*core.ConfigMap)
		if !ok {
			continue
		}
		if config.Labels["grafana_dashboard"] != "1" {
			t.Errorf("the sidecar of Grafana does not look at %s", name)
		}
		for key, value := range config.Data {
			got[key] = value
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the ConfigMaps do not have the files of %s", dashboards)
	}
}

// make dashboards is the same for a Grafana without Kubernetes.
func TestMakeDashboardsWritesTheDashboards(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), kerneltest.RequireCommand(t, "make"), "-s", "-C", "../..", "dashboards", "RUNBOOK_URL=https://git.internal/a&b", "DIR="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	paths, err := filepath.Glob(dashboards + "/*.json")
	if err != nil || len(paths) == 0 {
		t.Fatalf("dashboards: %v, %v", paths, err)
	}
	for _, path := range paths {
		want := strings.ReplaceAll(read(t, path), runbookPlace, "https://git.internal/a&b")
		if got := read(t, filepath.Join(dir, filepath.Base(path))); got != want {
			t.Errorf("%s is not as it is here, with the other address", filepath.Base(path))
		}
	}
}
