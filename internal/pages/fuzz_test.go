package pages

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/html"

	"sockstate_exporter/internal/pages/missing"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
)

// named is a snapshot in which all names that other people choose are s.
func named(s string) *snapshot.Snapshot {
	out := hostWithFailures()
	out.Binds.Data.Recent = out.Binds.Data.Recent[:3]
	for i := range out.Binds.Data.Recent {
		out.Binds.Data.Recent[i].Process = s
	}
	was := &out.Verdicts.Data[3].Restarts[0].Owner
	was.Process, was.Unit = s, s
	out.Watch.Data.Ports[0].Name, out.UDP.Data.Watch.Ports[0].Name = s, s
	out.Others[0].Name = s
	for i := range out.Listeners.Data {
		g := &out.Listeners.Data[i]
		g.Interface, g.Owner.Process, g.Owner.Unit, g.Owner.Container = s, s, s, s
	}
	out.Reuse.Err = errors.New(s)
	out.Binds.Err = errors.New(s)
	return out
}

// elements are the tags of a page and the names of their attributes, in order.
func elements(t *testing.T, page string) []string {
	t.Helper()
	var out []string
	tokens := html.NewTokenizer(strings.NewReader(page))
	for {
		switch tokens.Next() {
		case html.ErrorToken:
			return out
		case html.StartTagToken, html.SelfClosingTagToken, html.EndTagToken:
			token := tokens.Token()
			tag := token.Data
			for _, a := range token.Attr {
				tag += " " + a.Key
				if strings.HasPrefix(strings.ToLower(strings.TrimSpace(a.Val)), "javascript:") {
					t.Errorf("attribute %s=%q", a.Key, a.Val)
				}
			}
			out = append(out, tag)
		case html.CommentToken:
			out = append(out, "comment")
		default:
		}
	}
}

func FuzzNamesStayNames(f *testing.F) {
	for _, s := range []string{
		"plain", "<script>alert(1)</script>", "</style><img src=x onerror=x>", "\"'><b onload=x>", "a\nb\r\x00\x1b[31m",
		"\xff\xfe\x80", "\u202egpj.exe", "<!--", "{{.Title}}", "javascript:x", "&lt;&#x41;", "\u2028\u2029", strings.Repeat("x", 1000),
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if s == "" {
			return // a page without names has other elements
		}
		plainPages, pages := newPages(t, named("x")), newPages(t, named(s), sock.Feature{Name: s, Reason: s})
		plainPages.cfg.Features = []sock.Feature{{Name: "x", Reason: "x"}}
		denied := []sock.Feature{{Name: "bind_tracing", Reason: sock.ReasonCapBPF}}
		pages.cfg.Hint = missing.NewHint(missing.Host{Features: denied, Program: s})
		plainPages.cfg.Hint = missing.NewHint(missing.Host{Features: denied, Program: "x"})
		for _, path := range []string{"/", "/ports", "/ports?port=1-65535", "/failures"} {
			h, plainHandler := pages.Ports(), plainPages.Ports()
			switch path {
			case "/failures":
				h, plainHandler = pages.Failures(), plainPages.Failures()
			case "/":
				h, plainHandler = pages.Index(), plainPages.Index()
			}
			body := get(t, h, with(path, "refresh=off"))
			if got, want := elements(t, body), elements(t, get(t, plainHandler, with(path, "refresh=off"))); !slices.Equal(got, want) {
				t.Errorf("%s with %q has other elements than with a plain name:\n%q\n%q", path, s, got, want)
			}
			if i := strings.IndexFunc(body, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) || r == utf8.RuneError }); i >= 0 {
				t.Errorf("%s with %q holds %q", path, s, body[i:min(i+20, len(body))])
			}
			form := get(t, h, with(path, "format=json"))
			if !json.Valid([]byte(form)) || !utf8.ValidString(form) {
				t.Errorf("%s with %q is no JSON:\n%s", path, s, form)
			}
		}
	})
}

// with adds to the query of a path.
func with(path, query string) string {
	if strings.Contains(path, "?") {
		return path + "&" + query
	}
	return path + "?" + query
}
