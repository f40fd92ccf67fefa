package dashboards_test

import (
	"slices"
	"testing"

	"sockstate_exporter/test/promcheck"
)

// each runs a test for every dashboard.
func each(t *testing.T, test func(t *testing.T, d *promcheck.Dashboard)) {
	t.Helper()
	all, err := promcheck.LoadDashboards("../../dashboards")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range all {
		t.Run(d.Name(), func(t *testing.T) { test(t, d) })
	}
}

// eachPanel runs a test for every panel but rows.
func eachPanel(t *testing.T, test func(t *testing.T, p *promcheck.Panel)) {
	t.Helper()
	each(t, func(t *testing.T, d *promcheck.Dashboard) {
		for _, p := range d.AllPanels() {
			if p.Type != "row" {
				t.Run(p.Title, func(t *testing.T) { test(t, p) })
			}
		}
	})
}

func variable(d *promcheck.Dashboard, name string) *promcheck.Variable {
	i := slices.Index(d.VariableNames(), name)
	if i < 0 {
		return &promcheck.Variable{}
	}
	return &d.Templating.List[i]
}
