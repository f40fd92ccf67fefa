package pages

import (
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"html/template"
	"net/url"
	"strings"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/pages/missing"
	"sockstate_exporter/internal/pages/query"
	"sockstate_exporter/internal/pages/texts"
	"sockstate_exporter/internal/report"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/words"
)

//go:embed html
var files embed.FS

// What a page shows at most.
const (
	maxRows       = 500
	maxFailures   = 640 // as many as a snapshot has
	maxListeners  = 16  // of a port
	maxNamespaces = 16
)

// bounded is the beginning of a list, and how many items it left out.
func bounded[T any](list []T, most int) (kept []T, leftOut int) {
	n := min(len(list), most)
	return list[:n], len(list) - n
}

// parseTemplates returns the templates, and the Content-Security-Policy that lets a browser
// take nothing but their own style: no script, no image, no frame around.
func parseTemplates() (*template.Template, string, error) {
	css, err := files.ReadFile("html/page.css")
	if err != nil {
		return nil, "", err
	}
	t, err := template.New("").Funcs(template.FuncMap{
		"css":   func() template.CSS { return template.CSS(css) }, //nolint:gosec // of this package
		"name":  words.Name,
		"wait":  words.Seconds,
		"level": level,
		"clock": texts.Clock,
		"ago":   texts.Ago,

		"marked": texts.Marked,
		"advice": texts.SplitAdvice,
	}).ParseFS(files, "html/*.html")
	if err != nil {
		return nil, "", err
	}
	sum := sha256.Sum256(css)
	policy := "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
	return t, policy, nil
}

// stamp is a time in milliseconds.
func stamp(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }

// A Level is how bad something is, as a class of the style.
type Level string

const (
	bad  Level = "bad"
	warn Level = "warn"
	good Level = "good"
	none Level = "none"
)

// level is how bad an outcome is.
func level(o report.Outcome) Level {
	switch o {
	case report.Free:
		return good
	case report.Blocked:
		return bad
	default:
		return warn
	}
}

// A Tag is a short remark.
type Tag struct {
	Text  string
	Level Level
}

// flagTags remark on reuse flags.
func flagTags(reuseAddr, reusePort bindrule.Flag) []Tag {
	tag := Tag{"SO_REUSEADDR unknown", none}
	switch reuseAddr {
	case bindrule.Yes:
		tag = Tag{"SO_REUSEADDR", none}
	case bindrule.No:
		tag = Tag{"no SO_REUSEADDR", warn}
	}
	if reusePort == bindrule.Yes {
		return []Tag{tag, {"SO_REUSEPORT", none}}
	}
	return []Tag{tag}
}

// A page is what both pages begin with, in JSON and around the table.
type page struct {
	Version int       `json:"version"`
	Host    string    `json:"host,omitempty"`
	Time    time.Time `json:"time"`

	path  string
	query request
}

// A request is what is asked for, and when.
type request struct {
	query.Query
	host     string
	now      time.Time
	features []sock.Feature
	hint     missing.Hint
}

func newPage(path string, q request) page {
	return page{Version: report.Version, Host: q.host, Time: stamp(q.now), path: path, query: q}
}

// Refresh says whether the page reloads itself.
func (p *page) Refresh() bool { return p.query.Refresh }

// Filtered says whether the query leaves anything out.
func (p *page) Filtered() bool { return len(p.query.Ports) > 0 || p.query.Netns != nil }

// FilterText says what the query asks for.
func (p *page) FilterText() string {
	var only []string
	if len(p.query.Ports) > 0 {
		only = append(only, "port "+p.PortFilter())
	}
	switch {
	case p.query.Netns == nil:
	case *p.query.Netns == "":
		only = append(only, "the exporter's own network namespace")
	default:
		only = append(only, "network namespace "+words.Name(*p.query.Netns))
	}
	return strings.Join(only, " and ")
}

// PortFilter is the value of the form's field.
func (p *page) PortFilter() string {
	var out []string
	for _, r := range p.query.Ports {
		out = append(out, r.String())
	}
	return strings.Join(out, ", ")
}

// A field of the form.
type field struct{ Name, Value string }

// Hidden are the fields that the form does not show.
func (p *page) Hidden() (out []field) {
	if p.query.Netns != nil {
		out = append(out, field{"netns", *p.query.Netns})
	}
	if !p.query.Refresh {
		out = append(out, field{"refresh", "off"})
	}
	return out
}

// Path is the page without filters.
func (p *page) Path() string { return p.path }

// HasPorts says whether the page can be about some ports only.
func (p *page) HasPorts() bool { return p.path == "ports" || p.path == "failures" }

// Link is the page with one value of the query set, or left out if it is empty.
func (p *page) Link(key, value string) string {
	v := make(url.Values)
	for _, r := range p.query.Ports {
		v.Add("port", r.String())
	}
	for _, f := range p.Hidden() {
		v.Set(f.Name, f.Value)
	}
	v.Del(key)
	if value != "" {
		v.Set(key, value)
	}
	return "?" + v.Encode()
}
