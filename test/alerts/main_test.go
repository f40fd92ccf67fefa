package alerts_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"go.yaml.in/yaml/v3"

	"sockstate_exporter/test/promcheck"
)

const (
	rulesFile        = "../../alerts/sockstate.rules.yml"
	alertmanagerFile = "../../alerts/alertmanager.example.yml"
	runbooks         = "../../docs/runbooks"
)

func loadRules(t *testing.T) *promcheck.Rules {
	t.Helper()
	rules, err := promcheck.LoadRules(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	if len(rules.Alerts()) == 0 {
		t.Fatalf("%s has no alert", rulesFile)
	}
	return rules
}

func alertNames(rules *promcheck.Rules) []string {
	var names []string
	for _, a := range rules.Alerts() {
		names = append(names, a.Alert)
	}
	return names
}

// A unitTests is what promtool test rules reads, as far as these tests need it.
type unitTests struct {
	Tests []unitTest
}

type unitTest struct {
	Name  string
	Cases []unitTestCase          `yaml:"alert_rule_test"`
	Exprs []struct{ Expr string } `yaml:"promql_expr_test"`
}

type unitTestCase struct {
	Alert    string `yaml:"alertname"`
	At       string `yaml:"eval_time"`
	Expected []struct {
		Labels      map[string]string `yaml:"exp_labels"`
		Annotations map[string]string `yaml:"exp_annotations"`
	} `yaml:"exp_alerts"`
}

// fires says whether the alert fires at any time that the test looks at; tested, whether it looks.
func (u *unitTest) fires(alert string) (fires, tested bool) {
	for _, c := range u.Cases {
		if c.Alert == alert {
			tested = true
			fires = fires || len(c.Expected) > 0
		}
	}
	return fires, tested
}

func unitTestFiles(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob("../../alerts/tests/*.yml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("unit tests of rules: %v, %v", paths, err)
	}
	return paths
}

func loadUnitTests(t *testing.T) []unitTest {
	t.Helper()
	var all []unitTest
	for _, path := range unitTestFiles(t) {
		var file unitTests
		unmarshal(t, path, &file)
		all = append(all, file.Tests...)
	}
	return all
}

func unmarshal(t *testing.T, path string, into any) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(data, into); err != nil {
		t.Fatalf("parse %s: %v", path, err)
	}
}

func sorted(names []string) []string {
	return slices.Sorted(slices.Values(names))
}
