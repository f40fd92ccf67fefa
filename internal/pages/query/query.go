// Package query reads the query of a request for a page. It is pure.
package query

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/munnerz/goautoneg"

	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/watch"
)

// A Query is what a request asks for.
type Query struct {
	JSON    bool
	Refresh bool // the page reloads itself
	Ports   []sock.PortRange
	Netns   *string // nil: all
}

// Parse reads it. The error says what would be right.
func Parse(r *http.Request) (Query, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return Query{}, fmt.Errorf("read query: %w", err)
	}
	q := Query{Refresh: true}
	switch format := values.Get("format"); {
	case format == "json":
		q.JSON = true
	case format == "html":
	case values.Has("format"):
		return Query{}, fmt.Errorf("format=%q: want json or html", format)
	default:
		q.JSON = prefersJSON(r.Header.Values("Accept"))
	}
	switch refresh := values.Get("refresh"); {
	case refresh == "off":
		q.Refresh = false
	case refresh != "on" && values.Has("refresh"):
		return Query{}, fmt.Errorf("refresh=%q: want on or off", refresh)
	}
	for _, s := range values["port"] {
		if s == "" {
			continue // an empty field of the form
		}
		if s == "0" { // /failures has rows of binds to any free port
			q.Ports = append(q.Ports, sock.PortRange{})
			continue
		}
		r, err := watch.ParseRange(s)
		if err != nil {
			return Query{}, fmt.Errorf("port=%q: %w", s, err)
		}
		q.Ports = append(q.Ports, r)
	}
	if values.Has("netns") {
		q.Netns = new(values.Get("netns"))
	}
	return q, nil
}

// WantsPort says whether the query asks for the port.
func (q *Query) WantsPort(port uint16) bool {
	return len(q.Ports) == 0 || slices.ContainsFunc(q.Ports, func(r sock.PortRange) bool { return r.First <= port && port <= r.Last })
}

// WantsNetns says whether the query asks for the namespace, by its name or by its label.
func (q *Query) WantsNetns(ns *snapshot.Namespace) bool {
	return q.Netns == nil || *q.Netns == ns.Name || *q.Netns == ns.Label()
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
