package dashboards_test

import (
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/parser"

	"sockstate_exporter/collector"
	"sockstate_exporter/test/promcheck"
)

// What a person sees. Each test is for something that Grafana showed badly.

// Where values are merged, Grafana replaces them by bands of thresholds before it maps them to
// text, if the color comes from thresholds: the text is "-∞+" then.
func TestTimelinesShowTheTextOfTheirMappings(t *testing.T) {
	eachPanel(t, func(t *testing.T, p *promcheck.Panel) {
		if p.Type != "state-timeline" {
			return
		}
		if p.Options.MergeValues && p.FieldConfig.Defaults.Color.Mode != "fixed" {
			t.Errorf("color mode %q with mergeValues, want fixed", p.FieldConfig.Defaults.Color.Mode)
		}
		if len(p.FieldConfig.Defaults.Mappings) == 0 {
			t.Error("no value mappings")
		}
	})
}

// On a busy fleet they cover the graphs.
func TestAnnotationsOfFrequentEventsAreOff(t *testing.T) {
	each(t, func(t *testing.T, d *promcheck.Dashboard) {
		for _, a := range d.Annotations.List {
			if strings.Contains(a.Expr, "ALERTS") || strings.Contains(a.Expr, "sockstate_bind_failures_total") || strings.Contains(a.Expr, `state="listen"`) {
				if a.Enable {
					t.Errorf("annotation %q is on", a.Name)
				}
			}
		}
	})
}

func panel(t *testing.T, dashboard, title string) *promcheck.Panel {
	t.Helper()
	d, err := promcheck.LoadDashboard("../../dashboards/" + dashboard)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range d.AllPanels() {
		if p.Title == title {
			return p
		}
	}
	t.Fatalf("%s has no panel %q", dashboard, title)
	return nil
}

// Most servers without SO_REUSEADDR have clients: that a restart would fail meanwhile is no alarm.
func TestRestartVerdictIsInWordsAndNoAlarm(t *testing.T) {
	tile := panel(t, "port.json", "Would a restart work?")
	if got, want := tile.FieldConfig.Defaults.Unit, "suffix:s, then it works"; got != want {
		t.Errorf("unit = %q, want %q", got, want)
	}
	for _, p := range []*promcheck.Panel{tile, panel(t, "port.json", "Restart verdict")} {
		mappings := string(slices.Concat(p.FieldConfig.Defaults.Mappings...))
		if !strings.Contains(mappings, "would fail") || strings.Contains(mappings, "red") {
			t.Errorf("%s: mappings %s, want one that would fail, and none red", p.Title, mappings)
		}
	}
}

// increase() extrapolates: 1 event is 1.07.
func TestCountsAreWhole(t *testing.T) {
	eachQuery(t, func(t *testing.T, _ *promcheck.Dashboard, q promcheck.Query) {
		if q.Kind != promcheck.KindPanel {
			return
		}
		parser.Inspect(parse(t, q, nil), func(node parser.Node, path []parser.Node) error {
			call, ok := node.(*parser.Call)
			if ok && call.Func.Name == "increase" && !slices.ContainsFunc(path, wholeOrCompared) {
				t.Errorf("%s is neither rounded nor compared", call)
			}
			return nil
		})
	})
	eachPanel(t, func(t *testing.T, p *promcheck.Panel) {
		f := p.FieldConfig.Defaults
		if p.Type == "stat" && slices.Contains([]string{"none", "short"}, f.Unit) && (f.Decimals == nil || *f.Decimals != 0) {
			t.Error("decimals are not 0")
		}
	})
}

// wholeOrCompared says whether a node shows no decimals of what is in it. topk only chooses.
func wholeOrCompared(node parser.Node) bool {
	switch n := node.(type) {
	case *parser.Call:
		return n.Func.Name == "round"
	case *parser.BinaryExpr:
		return n.ReturnBool || n.Op == parser.LAND
	default:
		return false
	}
}

// Grafana's automatic sizes make the name of a value unreadable where there are many.
func TestTilesCanBeRead(t *testing.T) {
	eachPanel(t, func(t *testing.T, p *promcheck.Panel) {
		if text := p.Options.Text; p.Type == "stat" && (text.TitleSize < 12 || text.ValueSize < 16) {
			t.Errorf("sizes of name and value = %d, %d; want at least 12, 16", text.TitleSize, text.ValueSize)
		}
	})
}

// A tile without a value has the color of the first step.
func TestWhatIsNotKnownIsNotGreen(t *testing.T) {
	eachPanel(t, func(t *testing.T, p *promcheck.Panel) {
		if p.Type != "stat" {
			return
		}
		check := func(place string, steps []struct{ Color string }) {
			if len(steps) == 0 || steps[0].Color != "#808080" && steps[0].Color != "text" {
				t.Errorf("%s: thresholds %+v, want gray first", place, steps)
			}
		}
		check("defaults", p.FieldConfig.Defaults.Thresholds.Steps)
		for _, o := range p.FieldConfig.Overrides {
			for _, property := range o.Properties {
				var thresholds struct{ Steps []struct{ Color string } }
				if property.ID != "thresholds" {
					continue
				}
				if err := json.Unmarshal(property.Value, &thresholds); err != nil {
					t.Fatal(err)
				}
				check("override", thresholds.Steps)
			}
		}
	})
}

// A dashboard has 24 columns. On a screen of 1,600 pixels they have about 1,550.
const widthOfColumn = 1550 / 24

func TestTablesFit(t *testing.T) {
	eachPanel(t, func(t *testing.T, p *promcheck.Panel) {
		if p.Type != "table" {
			return
		}
		total := 0
		for _, name := range columns(t, p) {
			width := columnWidth(t, p, name)
			if width == 0 {
				t.Errorf("column %q has no width", name)
			}
			total += width
		}
		if limit := p.GridPos.W * widthOfColumn; total > limit {
			t.Errorf("columns take %d pixels of %d", total, limit)
		}
	})
}

// columns are the columns of a table that its transformations name.
func columns(t *testing.T, p *promcheck.Panel) []string {
	t.Helper()
	for _, step := range p.Transformations {
		if step.ID != "organize" {
			continue
		}
		fields := slices.Sorted(maps.Keys(step.Options.IndexByName))
		var names []string
		for _, field := range fields {
			name, ok := step.Options.RenameByName[field]
			switch {
			case step.Options.ExcludeByName[field]:
			case ok:
				names = append(names, name)
			default:
				t.Errorf("field %q has no name for people", field)
			}
		}
		return names
	}
	t.Error("no columns")
	return nil
}

// columnWidth is the width that a column has, or at least has.
func columnWidth(t *testing.T, p *promcheck.Panel, column string) int {
	t.Helper()
	for _, o := range p.FieldConfig.Overrides {
		if string(o.Matcher.Options) != `"`+column+`"` {
			continue
		}
		for _, property := range o.Properties {
			var width int
			if property.ID != "custom.width" && property.ID != "custom.minWidth" {
				continue
			}
			if err := json.Unmarshal(property.Value, &width); err != nil {
				t.Fatal(err)
			}
			return width
		}
	}
	return 0
}

// Text that a number is mapped to is aligned like the number, and a cell that is too small cuts
// the beginning then. The text for no value is in every empty cell.
func TestTextInTablesIsWhole(t *testing.T) {
	eachPanel(t, func(t *testing.T, p *promcheck.Panel) {
		if p.Type != "table" {
			return
		}
		if align := p.FieldConfig.Defaults.Custom.Align; align != "left" {
			t.Errorf("align = %q, want left", align)
		}
		if text := p.FieldConfig.Defaults.NoValue; text != "-" {
			t.Errorf("no value = %q, want -", text)
		}
	})
}

func TestStackedPanelsShowTheColorsOfTheirLegend(t *testing.T) {
	eachPanel(t, func(t *testing.T, p *promcheck.Panel) {
		custom := p.FieldConfig.Defaults.Custom
		if custom.Stacking.Mode != "normal" {
			return
		}
		if custom.LineWidth != 0 || custom.FillOpacity != 100 {
			t.Errorf("line width, opacity = %d, %d; want 0, 100", custom.LineWidth, custom.FillOpacity)
		}
		for _, target := range p.Targets {
			if !strings.Contains(target.Expr, "> 0") {
				t.Errorf("query %s has series that are 0", target.RefID)
			}
		}
	})
}

// Ratios end at 1. Where others are compared, one that is a thousand times another must not hide it.
func TestOutliersDoNotFlattenTheRest(t *testing.T) {
	eachPanel(t, func(t *testing.T, p *promcheck.Panel) {
		f := p.FieldConfig.Defaults
		if p.Type == "timeseries" && f.Unit != "percentunit" && f.Custom.Stacking.Mode == "none" && f.Custom.ScaleDistribution.Type != "symlog" {
			t.Errorf("scale = %q, want symlog", f.Custom.ScaleDistribution.Type)
		}
	})
}

func TestLegendsAreToTheRightAndShort(t *testing.T) {
	each(t, func(t *testing.T, d *promcheck.Dashboard) {
		for _, p := range d.AllPanels() {
			if p.Type == "timeseries" && p.Options.Legend.Placement != "right" {
				t.Errorf("%s: legend at %q, want right", p.Title, p.Options.Legend.Placement)
			}
			for _, target := range p.Targets {
				legend := target.LegendFormat
				if strings.Contains(legend, "{{port}}") && !strings.Contains(legend, "${host}:{{port}} {{name}}") {
					t.Errorf("%s: legend %q, want ${host}:{{port}} {{name}} in it", p.Title, legend)
				}
				// The fleet's panels about hosts are the ones that name them always.
				if d.Name() != "fleet.json" && strings.Contains(legend, "{{instance}}") {
					t.Errorf("%s: legend %q, want ${host}: nobody needs the instance if it is the only one", p.Title, legend)
				}
			}
		}
	})
}

// What is folded asks nothing until it is unfolded.
func TestSecondaryRowsAreFolded(t *testing.T) {
	want := map[string][]string{
		"fleet.json":    {"Now"},
		"port.json":     {"If it restarts now", "How it came about", "Failed binds"},
		"exporter.json": {"Can the data be trusted?"},
	}
	each(t, func(t *testing.T, d *promcheck.Dashboard) {
		var open []string
		for _, p := range d.Panels {
			if p.Type == "row" && !p.Collapsed {
				open = append(open, p.Title)
			}
		}
		if !slices.Equal(open, want[d.Name()]) {
			t.Errorf("open rows = %q, want %q", open, want[d.Name()])
		}
		if d.Name() == "port.json" && d.Time.From != "now-1h" {
			t.Errorf("time begins at %s, want now-1h", d.Time.From)
		}
	})
}

// boundless are labels with few values, however many hosts there are.
var boundless = []string{"state", "errno", "diagnosis", "collector"}

// atMost is how many series of a query can be read in a panel.
func atMost(p *promcheck.Panel) float64 {
	return map[string]float64{"stat": 12, "state-timeline": 15, "timeseries": 20, "table": 200}[p.Type]
}

// With 50 hosts of 110 pods and 40 ports a panel shows the worst.
func TestWhatIsShownIsBounded(t *testing.T) {
	each(t, func(t *testing.T, d *promcheck.Dashboard) {
		for _, p := range d.AllPanels() {
			for _, target := range p.Targets {
				legend := target.LegendFormat
				for _, label := range boundless {
					legend = strings.ReplaceAll(legend, "{{"+label+"}}", "")
				}
				many := target.Format == "table" || strings.Contains(legend, "{{") || strings.Contains(legend, "${host}")
				if k := bound(parse(t, promcheck.Query{Place: p.Title, Expr: target.Expr, Vars: d.VariableNames()}, nil)); many && k > atMost(p) {
					t.Errorf("%s, query %s: %v series, want a topk or bottomk of at most %v", p.Title, target.RefID, k, atMost(p))
				}
			}
		}
	})
}

// bound is how many series of all the query chooses, with its least topk or bottomk.
func bound(e parser.Expr) float64 {
	least := math.Inf(1)
	parser.Inspect(e, func(node parser.Node, _ []parser.Node) error {
		a, ok := node.(*parser.AggregateExpr)
		if ok && (a.Op == parser.TOPK || a.Op == parser.BOTTOMK) && len(a.Grouping) == 0 {
			if k, ok := a.Param.(*parser.NumberLiteral); ok {
				least = min(least, k.Val)
			}
		}
		return nil
	})
	return least
}

// What is chosen anew at each step of a graph is a line with gaps, and of many that are equal others
// each time.
func TestLinesAreTheSameAtEachStep(t *testing.T) {
	eachQuery(t, func(t *testing.T, _ *promcheck.Dashboard, q promcheck.Query) {
		if q.Kind != promcheck.KindPanel || q.Instant {
			return
		}
		parser.Inspect(parse(t, q, nil), func(node parser.Node, path []parser.Node) error {
			s, ok := node.(*parser.VectorSelector)
			if !ok {
				return nil
			}
			chosen, atEnd := false, s.StartOrEnd == parser.END
			for _, n := range path {
				switch n := n.(type) {
				case *parser.AggregateExpr:
					chosen = chosen || (n.Op == parser.TOPK || n.Op == parser.BOTTOMK) && len(n.Grouping) == 0
				case *parser.SubqueryExpr:
					atEnd = atEnd || n.StartOrEnd == parser.END
				}
			}
			if chosen && !atEnd {
				t.Errorf("%s is in a topk without @ end()", s)
			}
			return nil
		})
	})
}

func TestFleetLeadsOn(t *testing.T) {
	d, err := promcheck.LoadDashboard("../../dashboards/fleet.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range d.AllPanels() {
		if p.Type == "stat" && len(p.FieldConfig.Defaults.Links) == 0 {
			t.Errorf("%s leads nowhere", p.Title)
		}
	}
	if !slices.ContainsFunc(slices.Collect(maps.Values(links(t, d))), func(l promcheck.Link) bool { return failuresLink.MatchString(l.URL) }) {
		t.Error("nothing leads to /failures of a host")
	}
	if state := panel(t, "fleet.json", "Ports, worst first"); !strings.Contains(state.Targets[0].Expr, "sockstate_bind_failing") {
		t.Error("no port has the state that its binds fail")
	}
}

// Links within the fleet's page open one panel.
func TestPanelsThatLinksOpenExist(t *testing.T) {
	each(t, func(t *testing.T, d *promcheck.Dashboard) {
		for place, l := range links(t, d) {
			_, id, ok := strings.Cut(l.URL, "&viewPanel=")
			if ok && !slices.ContainsFunc(d.AllPanels(), func(p *promcheck.Panel) bool { return id == strconv.Itoa(p.ID) }) {
				t.Errorf("%s opens panel %s: there is none", place, id)
			}
		}
	})
}

// A metric that no dashboard shows is found by nobody.
func TestEveryMetricIsShown(t *testing.T) {
	all, err := promcheck.LoadDashboards("../../dashboards")
	if err != nil {
		t.Fatal(err)
	}
	shown := make(map[string]bool)
	for _, d := range all {
		for _, q := range d.Queries() {
			if q.Kind != promcheck.KindPanel {
				continue
			}
			parser.Inspect(parse(t, q, nil), func(node parser.Node, _ []parser.Node) error {
				if s, ok := node.(*parser.VectorSelector); ok {
					shown[s.Name] = true
				}
				return nil
			})
		}
	}
	shown["sockstate_netns_info"] = true // for joins with metrics of Kubernetes: docs/containers.md
	for _, m := range collector.New(nil, nil, nil).Metrics() {
		if !shown[m.Name] {
			t.Errorf("no panel shows %s", m.Name)
		}
	}
}
