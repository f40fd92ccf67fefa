package pages

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"sockstate_exporter/internal/loglimit"
	"sockstate_exporter/internal/pages/missing"
	"sockstate_exporter/internal/pages/query"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
)

// Config says what the pages show.
type Config struct {
	Take     func(context.Context) snapshot.Snapshot
	Features []sock.Feature
	Hint     missing.Hint
	Host     string           // its name, in the head of each page
	Now      func() time.Time // default: time.Now
	Version  string           // of the exporter
	Logger   *slog.Logger
}

// Pages are for people, as HTML, and for programs that are not Prometheus. Those get JSON
// by the Accept header or by ?format=json.
type Pages struct {
	cfg       Config
	limit     *loglimit.Limiter
	templates *template.Template
	policy    string // Content-Security-Policy
}

// Each page logs logBurst errors at once, and later ones logPause apart.
const (
	logBurst = 4
	logPause = 5 * time.Minute
)

// New returns the pages.
func New(cfg Config) (*Pages, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	templates, policy, err := parseTemplates()
	if err != nil {
		return nil, fmt.Errorf("read page templates: %w", err)
	}
	return &Pages{cfg: cfg, limit: loglimit.New(logBurst, logPause), templates: templates, policy: policy}, nil
}

// Index serves where everything is, and what works on this host. It takes no snapshot.
func (p *Pages) Index() http.Handler {
	return p.answers("index", func(_ context.Context, q request) any { return newIndexPage(q, p.cfg.Version) })
}

// Ports serves who listens on which port, and whether a restart could bind. The worst ports
// come first.
func (p *Pages) Ports() http.Handler {
	return p.handler("ports", func(s *snapshot.Snapshot, q request) any { return newPortsPage(s, q) })
}

// Failures serves the failed binds, the latest first.
func (p *Pages) Failures() http.Handler {
	return p.handler("failures", func(s *snapshot.Snapshot, q request) any { return newFailuresPage(s, q) })
}

// Diagnoses serves what each code of a diagnosis means. It takes no snapshot.
func (p *Pages) Diagnoses() http.Handler {
	return p.answers("diagnoses", func(_ context.Context, q request) any { return newDiagnosesPage(q) })
}

// pageTimeout is how long a page waits for its snapshot. The page then says what is missing.
const pageTimeout = 10 * time.Second

var errPageTimeout = errors.New("not ready within 10 s")

func (p *Pages) handler(name string, build func(*snapshot.Snapshot, request) any) http.Handler {
	return p.answers(name, func(ctx context.Context, q request) any {
		ctx, cancel := context.WithTimeoutCause(ctx, pageTimeout, errPageTimeout)
		defer cancel()
		s := p.cfg.Take(ctx)
		q.now = p.cfg.Now()
		return build(&s, q)
	})
}

func (p *Pages) answers(name string, content func(context.Context, request) any) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", p.policy)
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Vary", "Accept")
		h.Set("X-Content-Type-Options", "nosniff")

		asked, err := query.Parse(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		p.render(w, name, asked.JSON, content(r.Context(), request{asked, p.cfg.Host, p.cfg.Now(), p.cfg.Features, p.cfg.Hint}))
	})
}

// render writes the whole page, or an error.
func (p *Pages) render(w http.ResponseWriter, name string, asJSON bool, content any) {
	var b bytes.Buffer
	contentType := "text/html; charset=utf-8"
	var err error
	if asJSON {
		contentType = "application/json"
		enc := json.NewEncoder(&b)
		enc.SetIndent("", "  ")
		err = enc.Encode(content)
	} else {
		err = p.templates.ExecuteTemplate(&b, name+".html", content)
	}
	if err != nil {
		if leftOut, ok := p.limit.Allow(name); ok {
			p.cfg.Logger.Error("page cannot be rendered", "page", name, "err", err, loglimit.LeftOut, leftOut)
		}
		http.Error(w, "the page cannot be rendered", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
	_, _ = w.Write(b.Bytes()) // fails if the client went away
}
