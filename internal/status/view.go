package status

import (
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"slices"
	"strconv"
	"strings"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/sock"
)

//go:embed html
var files embed.FS

// refreshSeconds is how often a page reloads itself.
const refreshSeconds = 10

// parseTemplates returns the templates, and the Content-Security-Policy that lets a browser
// take nothing but their own style: no script, no image, no frame around.
func parseTemplates() (*template.Template, string, error) {
	css, err := files.ReadFile("html/page.css")
	if err != nil {
		return nil, "", err
	}
	t, err := template.New("").Funcs(template.FuncMap{
		"css":   func() template.CSS { return template.CSS(css) }, //nolint:gosec // of this package
		"name":  name,
		"clock": clock,
		"ago":   ago,
	}).ParseFS(files, "html/*.html")
	if err != nil {
		return nil, "", err
	}
	sum := sha256.Sum256(css)
	policy := "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
	return t, policy, nil
}

func clock(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") }

// ago is how long something is past, in the largest unit that says enough.
func ago(seconds float64) string {
	switch s := int64(seconds); {
	case s < 120:
		return fmt.Sprintf("%d s ago", s)
	case s < 2*3600:
		return fmt.Sprintf("%d min ago", s/60)
	case s < 2*86400:
		return fmt.Sprintf("%d h ago", s/3600)
	default:
		return fmt.Sprintf("%d days ago", s/86400)
	}
}

// A Level is how bad something is, as a class of the style.
type Level string

const (
	bad  Level = "bad"
	warn Level = "warn"
	good Level = "good"
	none Level = "none"
)

// A Tag is a short remark.
type Tag struct {
	Text  string
	Level Level
}

// A view is a page as HTML; its data is the JSON form.
type view interface{ data() any }

// A pageView is what all pages show around their table.
type pageView struct {
	path  string
	query pageQuery
}

// A tab links another page.
type tab struct{ Href, Text string }

// Tabs are the other pages.
func (v *pageView) Tabs() []tab {
	all := []tab{{"ports", "Ports"}, {"failures", "Failed binds"}, {"metrics", "Metrics"}}
	return slices.DeleteFunc(all, func(t tab) bool { return t.Href == v.path })
}

// Title is that of the page.
func (v *pageView) Title() string {
	if v.path == "failures" {
		return "Failed binds"
	}
	return "Ports"
}

// Refresh says whether the page reloads itself.
func (v *pageView) Refresh() bool { return v.query.refresh }

// RefreshSeconds is how often.
func (v *pageView) RefreshSeconds() int { return refreshSeconds }

// Filtered says whether some are left out.
func (v *pageView) Filtered() bool { return len(v.query.ports) > 0 || v.query.netns != nil }

// FilterText says which are not.
func (v *pageView) FilterText() string {
	var only []string
	if len(v.query.ports) > 0 {
		only = append(only, "port "+v.PortFilter())
	}
	switch {
	case v.query.netns == nil:
	case *v.query.netns == "":
		only = append(only, "the exporter's own network namespace")
	default:
		only = append(only, "network namespace "+name(*v.query.netns))
	}
	return strings.Join(only, " and ")
}

// PortFilter is what the form shows.
func (v *pageView) PortFilter() string {
	var out []string
	for _, r := range v.query.ports {
		out = append(out, rangeText(r))
	}
	return strings.Join(out, ", ")
}

// Hidden are the form's other values.
func (v *pageView) Hidden() []struct{ Name, Value string } {
	var out []struct{ Name, Value string }
	if v.query.netns != nil {
		out = append(out, struct{ Name, Value string }{"netns", *v.query.netns})
	}
	if !v.query.refresh {
		out = append(out, struct{ Name, Value string }{"refresh", "off"})
	}
	return out
}

// StopLink is the page that does not reload itself, GoLink the one that does.
func (v *pageView) StopLink() string { return v.query.link("refresh", new("off")) }

// GoLink is the opposite of StopLink.
func (v *pageView) GoLink() string { return v.query.link("refresh", nil) }

// AllLink is the page without filters.
func (v *pageView) AllLink() string { return v.path }

// JSONLink is the page for programs.
func (v *pageView) JSONLink() string { return v.query.link("format", new("json")) }

// NetnsLink is the page of one namespace.
func (v *pageView) NetnsLink(netns string) string { return v.query.link("netns", &netns) }

// failedParts are those that are not on the page, though they should be.
func failedParts(parts []PartReport) []string {
	var out []string
	for _, p := range parts {
		if p.State != partFailed {
			continue
		}
		where := ""
		if p.Netns != "" {
			where = " in network namespace " + name(p.Netns)
		}
		out = append(out, p.Part+where+": "+p.Error)
	}
	return out
}

// offParts are those that nobody wants.
func offParts(parts []PartReport) string {
	var out []string
	for _, p := range parts {
		if p.State == partOff && !slices.Contains(out, p.Part) {
			out = append(out, p.Part)
		}
	}
	return strings.Join(out, ", ")
}

// lackingFeatures are those that do not work on this host.
func lackingFeatures(features []sock.Feature) []string {
	var out []string
	for i := range features {
		if f := &features[i]; !f.Works {
			out = append(out, "On this host: "+featureLine(f)+".")
		}
	}
	return out
}

// featureLine says in a line whether a feature works, and how.
func featureLine(f *sock.Feature) string {
	line, how := f.Name+": works", f.Mode
	if !f.Works {
		line, how = f.Name+": not available", f.Reason
	}
	if how != "" {
		line += " (" + how + ")"
	}
	return plain(line)
}

// flagTags remark on reuse flags.
func flagTags(reuseAddr, reusePort Flag) []Tag {
	var out []Tag
	switch bindrule.Flag(reuseAddr) {
	case bindrule.Yes:
		out = append(out, Tag{"SO_REUSEADDR", none})
	case bindrule.No:
		out = append(out, Tag{"no SO_REUSEADDR", warn})
	default:
		out = append(out, Tag{"SO_REUSEADDR unknown", none})
	}
	if bindrule.Flag(reusePort) == bindrule.Yes {
		out = append(out, Tag{"SO_REUSEPORT", none})
	}
	return out
}

func count64(n uint64) string { return strconv.FormatUint(n, 10) }

// FeatureList is what works on this host and what does not, as a piece of HTML.
func FeatureList(features []sock.Feature) string {
	var b strings.Builder
	b.WriteString("<h2>On this host</h2><ul>")
	for i := range features {
		b.WriteString("<li>" + template.HTMLEscapeString(featureLine(&features[i])) + "</li>")
	}
	b.WriteString("</ul>")
	return b.String()
}
