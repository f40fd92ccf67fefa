package status

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
)

// PagesConfig says what pages show.
type PagesConfig struct {
	Take     func(context.Context) snapshot.Snapshot
	Features func() []sock.Feature
	Now      func() time.Time // nil: the clock
	Logger   *slog.Logger
}

// Pages are what is served to people, and to programs that are not Prometheus: as HTML or, by
// the Accept header or ?format=json, as JSON (docs/pages.md).
type Pages struct {
	cfg       PagesConfig
	templates *template.Template
	policy    string // Content-Security-Policy
}

// NewPages returns the pages.
func NewPages(cfg PagesConfig) (*Pages, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	templates, policy, err := parseTemplates()
	if err != nil {
		return nil, fmt.Errorf("read page templates: %w", err)
	}
	return &Pages{cfg: cfg, templates: templates, policy: policy}, nil
}

// Ports serves who listens where, and what a restart would meet: the worst first.
func (p *Pages) Ports() http.Handler {
	return p.handler("ports.html", func(s *snapshot.Snapshot, q pageQuery) view {
		return &portsView{PortsPage: newPortsPage(s, q), pageView: pageView{"ports", q}}
	})
}

// Failures serves the latest failed binds, the latest first.
func (p *Pages) Failures() http.Handler {
	return p.handler("failures.html", func(s *snapshot.Snapshot, q pageQuery) view {
		return &failuresView{FailuresPage: newFailuresPage(s, q), pageView: pageView{"failures", q}}
	})
}

// pageTimeout is for how long a page waits for the snapshot. What is not there by then is
// said to be missing.
const pageTimeout = 10 * time.Second

var errPageTimeout = errors.New("not ready within 10 s")

func (p *Pages) handler(name string, build func(*snapshot.Snapshot, pageQuery) view) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", p.policy)
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Vary", "Accept")
		h.Set("X-Content-Type-Options", "nosniff")

		q, err := newPageQuery(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		ctx, cancel := context.WithTimeoutCause(r.Context(), pageTimeout, errPageTimeout)
		defer cancel()
		s := p.cfg.Take(ctx)
		q.now = p.cfg.Now()
		if p.cfg.Features != nil {
			q.features = p.cfg.Features()
		}
		p.render(w, r, name, q.json, build(&s, q))
	})
}

// render writes a page at once, or an error.
func (p *Pages) render(w http.ResponseWriter, r *http.Request, name string, asJSON bool, page view) {
	var b bytes.Buffer
	contentType := "text/html; charset=utf-8"
	var err error
	if asJSON {
		contentType = "application/json"
		enc := json.NewEncoder(&b)
		enc.SetIndent("", "  ")
		err = enc.Encode(page.data())
	} else {
		err = p.templates.ExecuteTemplate(&b, name, page)
	}
	if err != nil {
		p.cfg.Logger.Error("page cannot be rendered", "page", r.URL.Path, "err", err)
		http.Error(w, "the page cannot be rendered", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
	_, _ = w.Write(b.Bytes()) // a client that went away
}

// A pageQuery is what is asked for.
type pageQuery struct {
	json    bool
	refresh bool // the page reloads itself
	ports   []sock.PortRange
	netns   *string // nil: all

	now      time.Time
	features []sock.Feature
}

func newPageQuery(r *http.Request) (pageQuery, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return pageQuery{}, fmt.Errorf("read query: %w", err)
	}
	q := pageQuery{refresh: true}
	switch format := values.Get("format"); {
	case format == "json":
		q.json = true
	case format == "html":
	case values.Has("format"):
		return pageQuery{}, fmt.Errorf("format=%q: want json or html", format)
	default:
		q.json = prefersJSON(r.Header.Values("Accept"))
	}
	switch refresh := values.Get("refresh"); {
	case refresh == "off":
		q.refresh = false
	case refresh != "on" && values.Has("refresh"):
		return pageQuery{}, fmt.Errorf("refresh=%q: want on or off", refresh)
	}
	for _, s := range values["port"] {
		if s == "" {
			continue // a form that was left empty
		}
		ports, err := ports.ParseRange(s)
		if err != nil {
			return pageQuery{}, fmt.Errorf("port=%q: %w", s, err)
		}
		q.ports = append(q.ports, ports)
	}
	if values.Has("netns") {
		netns := values.Get("netns")
		q.netns = &netns
	}
	return q, nil
}

// wantsPort says whether the port is asked for.
func (q *pageQuery) wantsPort(port uint16) bool {
	return len(q.ports) == 0 || slices.ContainsFunc(q.ports, func(r sock.PortRange) bool { return r.First <= port && port <= r.Last })
}

// wants says whether the namespace is asked for, by its name or as it is shown.
func (q *pageQuery) wants(ns *snapshot.Namespace) bool {
	return q.netns == nil || *q.netns == ns.Name || *q.netns == ns.Label()
}

// link is the query of the same page with one value set, or dropped for nil.
func (q *pageQuery) link(key string, value *string) string {
	v := make(url.Values)
	for _, r := range q.ports {
		v.Add("port", rangeText(r))
	}
	if q.netns != nil {
		v.Set("netns", *q.netns)
	}
	if !q.refresh {
		v.Set("refresh", "off")
	}
	v.Del(key)
	if value != nil {
		v.Set(key, *value)
	}
	return "?" + v.Encode()
}

func rangeText(r sock.PortRange) string {
	if r.First == r.Last {
		return strconv.Itoa(int(r.First))
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// prefersJSON reads an Accept header. HTML it is where both would do, unless JSON is named and
// HTML is not.
func prefersJSON(accept []string) bool {
	asJSON, html := quality(accept, "application", "json"), quality(accept, "text", "html")
	return asJSON.q > 0 && cmp.Or(cmp.Compare(asJSON.q, html.q), cmp.Compare(asJSON.exactness, html.exactness)) > 0
}

type preference struct {
	q         float64
	exactness int // of the range that says so: 2 for a type, 1 for type/*, 0 for */*
}

// quality is what the most exact media range that fits says (RFC 9110, 12.5.1).
func quality(accept []string, typ, subtype string) preference {
	best := preference{exactness: -1}
	for _, item := range strings.Split(strings.Join(accept, ","), ",") {
		media, params, _ := strings.Cut(item, ";")
		t, s, _ := strings.Cut(strings.ToLower(strings.TrimSpace(media)), "/")
		exactness := -1
		switch {
		case t == typ && s == subtype:
			exactness = 2
		case t == typ && s == "*":
			exactness = 1
		case t == "*" && s == "*":
			exactness = 0
		}
		if exactness > best.exactness {
			best = preference{weight(params), exactness}
		}
	}
	return best
}

// weight is the q of a media range, 1 without or where it makes no sense.
func weight(params string) float64 {
	for _, p := range strings.Split(params, ";") {
		key, value, _ := strings.Cut(strings.TrimSpace(p), "=")
		if !strings.EqualFold(key, "q") {
			continue
		}
		if q, err := strconv.ParseFloat(value, 64); err == nil && q >= 0 && q <= 1 {
			return q
		}
	}
	return 1
}
