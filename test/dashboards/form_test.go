package dashboards_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sockstate_exporter/test/promcheck"
)

func TestFilesAreWrittenInOneWay(t *testing.T) {
	each(t, func(t *testing.T, d *promcheck.Dashboard) {
		got, err := os.ReadFile(d.Path)
		if err != nil {
			t.Fatal(err)
		}
		var want bytes.Buffer
		if err := json.Indent(&want, got, "", "  "); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want.Bytes()) || !bytes.HasSuffix(got, []byte("}\n")) || bytes.HasSuffix(got, []byte("\n\n")) {
			t.Error("not indented by two spaces, one value a line, with one newline at its end (jq . does that)")
		}
	})
}

func TestDashboardsImportIntoOldAndNewGrafana(t *testing.T) {
	titles := map[string]string{
		"fleet.json":    "sockstate-fleet Socket state / Fleet",
		"port.json":     "sockstate-port Socket state / Port",
		"exporter.json": "sockstate-exporter Socket state / Exporter",
	}
	each(t, func(t *testing.T, d *promcheck.Dashboard) {
		if got, want := d.UID+" "+d.Title, titles[d.Name()]; got != want {
			t.Errorf("uid and title = %q, want %q", got, want)
		}
		if d.SchemaVersion != 37 || d.GraphTooltip != 1 || d.ID != nil {
			t.Errorf("schemaVersion, graphTooltip, id = %d, %d, %v; want 37, 1, null", d.SchemaVersion, d.GraphTooltip, d.ID)
		}
	})
}

func TestPanelsAreApart(t *testing.T) {
	each(t, func(t *testing.T, d *promcheck.Dashboard) {
		panels := d.AllPanels()
		for i, p := range panels {
			a := p.GridPos
			if a.W < 1 || a.H < 1 || a.X < 0 || a.Y < 0 || a.X+a.W > 24 {
				t.Errorf("%q is outside of the grid: %+v", p.Title, a)
			}
			for _, q := range panels[:i] {
				b := q.GridPos
				if p.ID == q.ID {
					t.Errorf("%q and %q have id %d", p.Title, q.Title, p.ID)
				}
				if a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
					t.Errorf("%q and %q overlap", p.Title, q.Title)
				}
			}
		}
	})
}

func TestQueriesOfAPanelHaveIDs(t *testing.T) {
	eachPanel(t, func(t *testing.T, p *promcheck.Panel) {
		var ids []string
		for _, target := range p.Targets {
			if target.RefID == "" || slices.Contains(ids, target.RefID) {
				t.Errorf("refId %q is empty or used before", target.RefID)
			}
			ids = append(ids, target.RefID)
			if target.Instant == target.Range {
				t.Errorf("query %s is neither instant nor over a range, or both", target.RefID)
			}
		}
	})
}

// An empty panel must not look like good news.
func TestPanelsSayWhenTheyKnowNothing(t *testing.T) {
	eachPanel(t, func(t *testing.T, p *promcheck.Panel) {
		if p.FieldConfig.Defaults.NoValue == "" {
			t.Error("no text for no value")
		}
	})
}

// links are all links of a dashboard, each with its place.
func links(t *testing.T, d *promcheck.Dashboard) map[string]promcheck.Link {
	t.Helper()
	all := make(map[string]promcheck.Link)
	add := func(place string, list []promcheck.Link) {
		for _, l := range list {
			all[fmt.Sprintf("%s, link %q", place, l.Title)] = l
		}
	}
	add("dashboard", d.Links)
	for _, p := range d.AllPanels() {
		add(p.Title, p.Links)
		add(p.Title, p.FieldConfig.Defaults.Links)
		for _, o := range p.FieldConfig.Overrides {
			for _, property := range o.Properties {
				var list []promcheck.Link
				if property.ID != "links" {
					continue
				}
				if err := json.Unmarshal(property.Value, &list); err != nil {
					t.Fatal(err)
				}
				add(p.Title, list)
			}
		}
	}
	return all
}

func TestLinksLeadToDashboardsThatExistAndKeepWhatIsSelected(t *testing.T) {
	all, err := promcheck.LoadDashboards("../../dashboards")
	if err != nil {
		t.Fatal(err)
	}
	each(t, func(t *testing.T, d *promcheck.Dashboard) {
		for place, l := range links(t, d) {
			uid, ok := strings.CutPrefix(l.URL, "/d/")
			if !ok {
				continue
			}
			uid, query, _ := strings.Cut(uid, "?")
			if !slices.ContainsFunc(all, func(x *promcheck.Dashboard) bool { return x.UID == uid }) {
				t.Errorf("%s leads to %s: no such dashboard", place, l.URL)
			}
			if l.Type == "link" { // of the whole dashboard
				if !l.KeepTime || !l.IncludeVars || query != "" {
					t.Errorf("%s does not keep time and variables", place)
				}
				continue
			}
			for _, part := range []string{"${__url_time_range}", "${datasource:queryparam}", "job", "instance"} {
				if !strings.Contains(query, part) {
					t.Errorf("%s does not keep %s", place, part)
				}
			}
		}
		for _, other := range all {
			if other.UID != d.UID && !slices.ContainsFunc(d.Links, func(l promcheck.Link) bool { return l.URL == "/d/"+other.UID }) {
				t.Errorf("no link to %s", other.UID)
			}
		}
	})
}

const runbooks = "../../docs/runbooks"

var runbookLink = regexp.MustCompile(`^\$\{runbooks:raw\}/(\w+|\.\./diagnoses)\.md(#\$\{__value\.text\})?$`)

// The page of the exporter of a row or a tile.
var failuresLink = regexp.MustCompile(`^http://\$\{(__data\.fields|__field\.labels)\.instance\}/failures$`)

func TestLinksLeadToPagesThatExist(t *testing.T) {
	each(t, func(t *testing.T, d *promcheck.Dashboard) {
		for place, l := range links(t, d) {
			if strings.HasPrefix(l.URL, "/d/") || l.URL == "${runbooks:raw}/${__data.fields.alertname}.md" || failuresLink.MatchString(l.URL) {
				continue
			}
			m := runbookLink.FindStringSubmatch(l.URL)
			if m == nil {
				t.Errorf("%s leads to %s: neither a dashboard nor a page that is known here", place, l.URL)
				continue
			}
			if _, err := os.Stat(filepath.Join(runbooks, m[1]+".md")); err != nil {
				t.Errorf("%s: %v", place, err)
			}
		}
	})
}
