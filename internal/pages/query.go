package pages

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/munnerz/goautoneg"

	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/watch"
)

// A query is what a request asks for, and when.
type query struct {
	json    bool
	refresh bool // the page reloads itself
	ports   []sock.PortRange
	netns   *string // nil: all

	now      time.Time
	features []sock.Feature
}

func parseQuery(r *http.Request) (query, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return query{}, fmt.Errorf("read query: %w", err)
	}
	q := query{refresh: true}
	switch format := values.Get("format"); {
	case format == "json":
		q.json = true
	case format == "html":
	case values.Has("format"):
		return query{}, fmt.Errorf("format=%q: want json or html", format)
	default:
		q.json = prefersJSON(r.Header.Values("Accept"))
	}
	switch refresh := values.Get("refresh"); {
	case refresh == "off":
		q.refresh = false
	case refresh != "on" && values.Has("refresh"):
		return query{}, fmt.Errorf("refresh=%q: want on or off", refresh)
	}
	for _, s := range values["port"] {
		if s == "" {
			continue // an empty field of the form
		}
		r, err := watch.ParseRange(s)
		if err != nil {
			return query{}, fmt.Errorf("port=%q: %w", s, err)
		}
		q.ports = append(q.ports, r)
	}
	if values.Has("netns") {
		q.netns = new(values.Get("netns"))
	}
	return q, nil
}

// wantsPort says whether the query asks for the port.
func (q *query) wantsPort(port uint16) bool {
	return len(q.ports) == 0 || slices.ContainsFunc(q.ports, func(r sock.PortRange) bool { return r.First <= port && port <= r.Last })
}

// wantsNetns says whether the query asks for the namespace, by its name or by its label.
func (q *query) wantsNetns(ns *snapshot.Namespace) bool {
	return q.netns == nil || *q.netns == ns.Name || *q.netns == ns.Label()
}

// prefersJSON says whether an Accept header asks for JSON rather than HTML. If it takes both
// alike, the page is HTML, unless only JSON is named.
func prefersJSON(accept []string) bool {
	ranges := goautoneg.ParseAccept(strings.ToLower(strings.Join(accept, ",")))
	// As RFC 9110, 12.5.1, has it, the most specific range counts.
	weigh := func(typ, subtype string) (quality float64, specific int) {
		specific = -1
		for _, r := range ranges {
			of := -1
			switch {
			case r.Type == typ && r.SubType == subtype:
				of = 2
			case r.Type == typ && r.SubType == "*":
				of = 1
			case r.Type == "*" && r.SubType == "*":
				of = 0
			}
			if of > specific {
				quality, specific = r.Q, of
			}
		}
		return quality, specific
	}
	asJSON, jsonSpecific := weigh("application", "json")
	asHTML, htmlSpecific := weigh("text", "html")
	return asJSON > 0 && cmp.Or(cmp.Compare(asJSON, asHTML), cmp.Compare(jsonSpecific, htmlSpecific)) > 0
}
