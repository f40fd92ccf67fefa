package dashboards_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"sockstate_exporter/test/promcheck"
)

// The rules of Grafana's dashboard-linter, each under its name there, and without exceptions.
// Those that look at PromQL are in query_test.go.

func TestTemplateDatasourceRule(t *testing.T) {
	each(t, func(t *testing.T, d *promcheck.Dashboard) {
		var names []string
		for i := range d.Templating.List {
			if v := &d.Templating.List[i]; v.Type == "datasource" {
				names = append(names, v.Name+", "+v.Label+", "+v.QueryText())
			}
		}
		if want := []string{"datasource, Data source, prometheus"}; !slices.Equal(names, want) {
			t.Errorf("data source variables = %q, want %q", names, want)
		}
	})
}

func TestTemplateJobRule(t *testing.T)      { templateRule(t, "job", "Job") }
func TestTemplateInstanceRule(t *testing.T) { templateRule(t, "instance", "Instance") }

func templateRule(t *testing.T, name, label string) {
	t.Helper()
	each(t, func(t *testing.T, d *promcheck.Dashboard) {
		v := variable(d, name)
		got := fmt.Sprintln(v.Type, v.Label, v.Multi, v.IncludeAll, v.AllValue, v.Hide)
		if want := fmt.Sprintln("query", label, true, true, ".+", 0); got != want {
			t.Errorf("variable %s = %swant %s", name, got, want)
		}
	})
}

func TestTemplateOnTimeChangeReloadRule(t *testing.T) {
	each(t, func(t *testing.T, d *promcheck.Dashboard) {
		for i := range d.Templating.List {
			if v := &d.Templating.List[i]; v.Type == "query" && v.Refresh != 2 {
				t.Errorf("variable %s: refresh %d, want 2, on time range change", v.Name, v.Refresh)
			}
		}
	})
}

func TestPanelDatasourceRule(t *testing.T) {
	want := promcheck.Datasource{Type: "prometheus", UID: "${datasource}"}
	check := func(t *testing.T, what string, got *promcheck.Datasource) {
		t.Helper()
		if got == nil || *got != want {
			t.Errorf("%s: data source = %+v, want %+v", what, got, want)
		}
	}
	each(t, func(t *testing.T, d *promcheck.Dashboard) {
		for i := range d.Templating.List {
			if v := &d.Templating.List[i]; v.Type == "query" {
				check(t, "variable "+v.Name, v.Datasource)
			}
		}
		for i := range d.Annotations.List {
			if a := &d.Annotations.List[i]; a.BuiltIn == 0 {
				check(t, "annotation "+a.Name, a.Datasource)
			}
		}
		for _, p := range d.AllPanels() {
			if p.Type == "row" {
				continue
			}
			check(t, p.Title, p.Datasource)
			for i := range p.Targets {
				check(t, p.Title+", query "+p.Targets[i].RefID, p.Targets[i].Datasource)
			}
		}
	})
}

func TestPanelTitleDescriptionRule(t *testing.T) {
	eachPanel(t, func(t *testing.T, p *promcheck.Panel) {
		if p.Title == "" {
			t.Errorf("panel %d has no title", p.ID)
		}
		// Which question does it answer?
		if question, _, ok := strings.Cut(p.Description, "?"); !ok || strings.Contains(question, ".") {
			t.Errorf("description %q does not begin with a question", p.Description)
		}
	})
}

// units are those that the dashboards use, as Grafana names them.
var units = []string{"none", "short", "s", "cps", "reqps", "percentunit", "bytes", "dateTimeFromNow",
	"suffix:s, then it works", "suffix:s from now"}

func TestPanelUnitsRule(t *testing.T) {
	eachPanel(t, func(t *testing.T, p *promcheck.Panel) {
		if !slices.Contains(units, p.FieldConfig.Defaults.Unit) {
			t.Errorf("unit = %q, want one of %q", p.FieldConfig.Defaults.Unit, units)
		}
		for _, o := range p.FieldConfig.Overrides {
			for _, property := range o.Properties {
				var unit string
				if property.ID != "unit" {
					continue
				}
				if err := json.Unmarshal(property.Value, &unit); err != nil || !slices.Contains(units, unit) {
					t.Errorf("unit in an override = %s, want one of %q", property.Value, units)
				}
			}
		}
	})
}

func TestPanelNoTargetsRule(t *testing.T) {
	eachPanel(t, func(t *testing.T, p *promcheck.Panel) {
		if len(p.Targets) == 0 {
			t.Error("no query")
		}
	})
}

func TestUneditableDashboardRule(t *testing.T) {
	each(t, func(t *testing.T, d *promcheck.Dashboard) {
		if d.Editable {
			t.Error("editable")
		}
	})
}
