package alerts_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sockstate_exporter/internal/kerneltest"
)

func TestRulesPassPromtool(t *testing.T) {
	promtool := kerneltest.RequireCommand(t, "promtool")
	cmd := exec.CommandContext(t.Context(), promtool, "check", "rules", "--lint=all", "--lint-fatal", rulesFile)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool check rules: %v\n%s", err, out)
	}
}

// What fires, with which words, and what stays quiet.
func TestAlertsFireAndStayQuiet(t *testing.T) {
	promtool := kerneltest.RequireCommand(t, "promtool")
	for _, path := range unitTestFiles(t) {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".yml"), func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), promtool, "test", "rules", path)
			cmd.Env = append(os.Environ(), "GOGC=800") // a fifth less CPU
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("promtool test rules: %v\n%s", err, out)
			}
		})
	}
}

func TestEveryAlertIsSeenFiringAndQuiet(t *testing.T) {
	all := loadUnitTests(t)
	for _, alert := range alertNames(loadRules(t)) {
		firing, quiet := 0, 0
		for i := range all {
			fires, tested := all[i].fires(alert)
			if fires {
				firing++
			} else if tested {
				quiet++
			}
		}
		if firing == 0 {
			t.Errorf("%s: no unit test in which it fires", alert)
		}
		if quiet == 0 {
			t.Errorf("%s: no unit test in which it never fires", alert)
		}
	}
}

// A misspelt alert in a unit test is quiet, whatever happens.
func TestUnitTestsAreOfAlertsThatExistAndSayWhatTheyShow(t *testing.T) {
	known := make(map[string]bool)
	for _, alert := range alertNames(loadRules(t)) {
		known[alert] = true
	}
	for _, test := range loadUnitTests(t) {
		firing, counts := false, len(test.Exprs) > 0 && len(test.Cases) == 0
		if len(test.Exprs) == 0 && len(test.Cases) == 0 {
			t.Errorf("%q looks at nothing", test.Name)
		}
		for _, c := range test.Cases {
			if !known[c.Alert] {
				t.Errorf("%q: there is no alert %q", test.Name, c.Alert)
			}
			firing = firing || len(c.Expected) > 0
			for _, e := range c.Expected {
				if len(e.Labels) == 0 || len(e.Annotations) == 0 {
					t.Errorf("%q: %s at %s is expected without its labels or its annotations", test.Name, c.Alert, c.At)
				}
			}
		}
		want := map[bool]string{true: "fires: ", false: "quiet: "}[firing]
		if counts {
			want = "counts: "
		}
		if !strings.HasPrefix(test.Name, want) {
			t.Errorf("%q: its name does not begin with %q", test.Name, want)
		}
	}
}
