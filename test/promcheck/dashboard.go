package promcheck

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// A Dashboard is a Grafana dashboard of the classic model, as far as tests look at it.
type Dashboard struct {
	Path          string `json:"-"`
	UID           string
	Title         string
	Description   string
	Tags          []string
	ID            *int
	SchemaVersion int
	GraphTooltip  int
	Editable      bool
	Refresh       string
	Timezone      string
	Time          struct{ From, To string }
	Links         []Link
	Panels        []Panel
	Templating    struct{ List []Variable }
	Annotations   struct{ List []Annotation }
}

// A Link leads from a dashboard, a panel or a value to somewhere else.
type Link struct {
	Title       string
	Type        string
	URL         string
	Tags        []string
	KeepTime    bool
	IncludeVars bool
	AsDropdown  bool
	TargetBlank bool
}

// A Datasource is where a query goes.
type Datasource struct {
	Type string
	UID  string
}

// A Variable is one of the list at the top of a dashboard.
type Variable struct {
	Name       string
	Label      string
	Type       string
	Datasource *Datasource
	Definition string
	Query      json.RawMessage // a string, or an object with the string in it
	Regex      string
	Refresh    int
	Multi      bool
	IncludeAll bool
	AllValue   string
	Sort       int
	Hide       int
	Current    json.RawMessage
	Options    []json.RawMessage
}

// QueryText is the query, whichever of the two ways it is written in.
func (v *Variable) QueryText() string {
	var text string
	if json.Unmarshal(v.Query, &text) == nil {
		return text
	}
	var object struct{ Query string }
	if json.Unmarshal(v.Query, &object) == nil {
		return object.Query
	}
	return ""
}

// An Annotation is a query whose results are marked in all panels.
type Annotation struct {
	Name       string
	Type       string
	BuiltIn    int
	Datasource *Datasource
	Enable     bool
	Expr       string
	IconColor  string
	TitleFormat,
	TextFormat,
	TagKeys string
}

// A Panel is one panel, or a row with those that are folded into it.
type Panel struct {
	ID          int
	Type        string
	Title       string
	Description string
	Datasource  *Datasource
	GridPos     struct{ X, Y, W, H int }
	Collapsed   bool
	Repeat      string
	Targets     []Target
	Links       []Link
	Panels      []Panel
	Options     Options
	FieldConfig struct {
		Defaults  FieldConfig
		Overrides []Override
	}
	Transformations []Transformation
}

// Options are what kinds of panels have, each its own.
type Options struct {
	MergeValues bool                               // state-timeline
	Text        struct{ TitleSize, ValueSize int } // stat
	Legend      struct{ Placement string }         // timeseries
}

// A Transformation is a step between the queries and a panel. Of organize there are the columns of a
// table, by field.
type Transformation struct {
	ID      string
	Options struct {
		ExcludeByName map[string]bool
		IndexByName   map[string]int
		RenameByName  map[string]string
	}
}

// A FieldConfig says how values are shown.
type FieldConfig struct {
	Unit       string
	Decimals   *int
	NoValue    string
	Color      struct{ Mode string }
	Thresholds struct{ Steps []struct{ Color string } }
	Links      []Link
	Mappings   []json.RawMessage
	Custom     struct {
		Align             string
		LineWidth         int
		FillOpacity       int
		Stacking          struct{ Mode string }
		ScaleDistribution struct{ Type string }
	}
}

// An Override is a FieldConfig of some fields.
type Override struct {
	Matcher struct {
		ID      string
		Options json.RawMessage
	}
	Properties []struct {
		ID    string
		Value json.RawMessage
	}
}

// A Target is a query of a panel.
type Target struct {
	RefID        string
	Expr         string
	LegendFormat string
	Format       string
	Instant      bool
	Range        bool
	Hide         bool
	Datasource   *Datasource
}

// LoadDashboard reads a dashboard.
func LoadDashboard(path string) (*Dashboard, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read dashboard: %w", err)
	}
	d := &Dashboard{Path: path}
	if err := json.Unmarshal(data, d); err != nil {
		return nil, fmt.Errorf("parse %s: %w", path, err)
	}
	return d, nil
}

// LoadDashboards reads all dashboards of a directory. There is at least one.
func LoadDashboards(dir string) ([]*Dashboard, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, fmt.Errorf("list dashboards: %w", err)
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("no dashboard in %s", dir)
	}
	var all []*Dashboard
	for _, path := range paths {
		d, err := LoadDashboard(path)
		if err != nil {
			return nil, err
		}
		all = append(all, d)
	}
	return all, nil
}

// AllPanels are the panels, rows and those folded into them included, in order.
func (d *Dashboard) AllPanels() []*Panel { return flatten(d.Panels) }

func flatten(panels []Panel) []*Panel {
	var all []*Panel
	for i := range panels {
		all = append(all, &panels[i])
		all = append(all, flatten(panels[i].Panels)...)
	}
	return all
}

// Name is the name of the dashboard's file.
func (d *Dashboard) Name() string { return filepath.Base(d.Path) }

// VariableNames are the names of the dashboard's variables.
func (d *Dashboard) VariableNames() []string {
	var names []string
	for i := range d.Templating.List {
		names = append(names, d.Templating.List[i].Name)
	}
	return names
}

// What a variable may ask: label_values(selector, label), or query_result(expression).
var (
	labelValues = regexp.MustCompile(`(?s)^label_values\((.+),\s*(\w+)\s*\)$`)
	queryResult = regexp.MustCompile(`(?s)^query_result\((.+)\)$`)
)

// Queries are all queries of the dashboard: those of variables, of annotations and of panels.
func (d *Dashboard) Queries() []Query {
	var queries []Query
	vars := d.VariableNames()
	add := func(kind Kind, place, expr, label string, instant bool) {
		place = fmt.Sprintf("%s: %s", d.Name(), place)
		queries = append(queries, Query{Kind: kind, Place: place, Expr: expr, Label: label, Instant: instant, Vars: vars})
	}
	for i := range d.Templating.List {
		v := &d.Templating.List[i]
		if v.Type != "query" {
			continue
		}
		place, text := "variable "+v.Name, strings.TrimSpace(v.QueryText())
		if m := labelValues.FindStringSubmatch(text); m != nil {
			add(KindVariable, place, strings.TrimSpace(m[1]), m[2], true)
		} else if m := queryResult.FindStringSubmatch(text); m != nil {
			add(KindVariable, place, strings.TrimSpace(m[1]), "", true)
		} else {
			add(KindVariable, place, text, "", true)
		}
	}
	for i := range d.Annotations.List {
		if a := &d.Annotations.List[i]; a.BuiltIn == 0 {
			add(KindAnnotation, "annotation "+a.Name, a.Expr, "", false)
		}
	}
	for _, p := range d.AllPanels() {
		for _, t := range p.Targets {
			add(KindPanel, fmt.Sprintf("panel %q, query %s", p.Title, t.RefID), t.Expr, "", t.Instant && !t.Range)
		}
	}
	return queries
}
