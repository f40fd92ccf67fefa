package deploy

import (
	"regexp"
	"strings"
	"testing"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/test/launch"
)

// An exporter is a running one, seen from inside its network namespace.
type exporter struct{ *launch.Exporter }

// start starts what is to be the exporter, and waits until it is ready.
func start(t *testing.T, ns *kerneltest.NetNS, cmd *kerneltest.Cmd) *exporter {
	t.Helper()
	return startUntil(t, ns, cmd, "/-/ready")
}

// startUntil starts what is to be the exporter, and waits until it has the page.
func startUntil(t *testing.T, ns *kerneltest.NetNS, cmd *kerneltest.Cmd, page string) *exporter {
	t.Helper()
	e := &exporter{launch.Of(t, ns, launch.Address, cmd)}
	e.RunUntil(t, page)
	return e
}

func (e *exporter) metrics(t *testing.T) string {
	t.Helper()
	return e.Get(t, "/metrics")
}

// features are the rows of sockstate_feature_available by feature: "1", or why not.
func (e *exporter) features(t *testing.T) map[string]string {
	t.Helper()
	rows := regexp.MustCompile(`(?m)^sockstate_feature_available\{feature="(\w+)"(?:,mode="(\w*)")?(?:,reason="(\w*)")?\} ([01])$`).
		FindAllStringSubmatch(e.metrics(t), -1)
	out := make(map[string]string)
	for _, row := range rows {
		out[row[1]] = strings.Join(strings.Fields(row[2]+" "+row[3]+" "+row[4]), " ")
	}
	return out
}

// checkWorks fails unless every collector succeeds.
func (e *exporter) checkWorks(t *testing.T) {
	t.Helper()
	metrics := e.metrics(t)
	if n := strings.Count(metrics, "\nsockstate_scrape_collector_success{"); n == 0 {
		t.Errorf("no collectors:\n%s", metrics)
	}
	if failed := regexp.MustCompile(`sockstate_scrape_collector_success\{[^}]*\} 0`).FindAllString(metrics, -1); failed != nil {
		t.Errorf("failing: %v\n%s", failed, e.Log)
	}
}
