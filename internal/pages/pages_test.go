package pages

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/diagnosis"
	"sockstate_exporter/internal/failures"
	"sockstate_exporter/internal/pages/missing"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/report"
	"sockstate_exporter/internal/reporttest"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/verdict"
	"sockstate_exporter/internal/watch"
)

var pageTime = time.Date(2026, 3, 1, 3, 0, 0, 123_456_789, time.UTC)

// newPages shows a snapshot at pageTime.
func newPages(t testing.TB, s *snapshot.Snapshot, features ...sock.Feature) *Pages {
	t.Helper()
	p, err := New(Config{
		Take:     func(context.Context) snapshot.Snapshot { return *s },
		Features: features,
		Host:     "gateway<7>",
		Now:      func() time.Time { return pageTime },
		Logger:   slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func ask(h http.Handler, target, accept string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, target, nil)
	if accept != "" {
		r.Header.Set("Accept", accept)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func get(t *testing.T, h http.Handler, target string) string {
	t.Helper()
	w := ask(h, target, "")
	if w.Code != http.StatusOK {
		t.Fatalf("GET %s: status %d\n%s", target, w.Code, w.Body)
	}
	return w.Body.String()
}

func portsPage(t *testing.T, s *snapshot.Snapshot, query string) PortsPage {
	t.Helper()
	var page PortsPage
	decode(t, get(t, newPages(t, s).Ports(), "/ports?format=json"+query), &page)
	return page
}

func decode(t *testing.T, body string, v any) {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		t.Fatalf("%v\n%s", err, body)
	}
}

// watching adds the watched ports and their counts to the verdicts.
func watching(s *snapshot.Snapshot) *snapshot.Snapshot {
	watchIn(&s.Namespace)
	return s
}

func watchIn(ns *snapshot.Namespace) {
	ns.Watch.Data.Ports, ns.TCP.Data = nil, nil
	for _, v := range ns.Verdicts.Data {
		ns.Watch.Data.Ports = append(ns.Watch.Data.Ports, watch.Port{Number: v.Number, Source: watch.SourceListener})
		p := ports.PortSockets{Number: v.Number}
		for _, o := range v.Port.Sockets {
			p.IPv4.States[o.State] += o.Count
			p.IPv4.TimeWaitRemaining = max(p.IPv4.TimeWaitRemaining, o.Expires)
		}
		ns.TCP.Data = append(ns.TCP.Data, p)
	}
}

// troubledHost is a host with many problems.
func troubledHost() *snapshot.Snapshot {
	s := watching(reporttest.SnapshotOf(
		[]bindrule.Socket{reporttest.Listener(any4, false, bindrule.Yes)}, // 4840
		[]bindrule.Socket{reporttest.Listener(any4, false, bindrule.No), reporttest.TimeWait(lo4, 212, bindrule.No, left)},
		nil, // 4842: of --watch.port
		[]bindrule.Socket{reporttest.TimeWait(lo4, 5, bindrule.No, left)}, // 4843: gone
		[]bindrule.Socket{reporttest.Listener(any4, false, bindrule.Yes), reporttest.Listener(lo6, false, bindrule.Yes), reporttest.TimeWait(lo4, 3, bindrule.FlagUnknown, left)},
		[]bindrule.Socket{reporttest.OnDevice()}, // 4845
		[]bindrule.Socket{reporttest.Listener(any6, true, bindrule.Yes)},
	))
	s.Watch.Data.Ports[0].Name, s.Watch.Data.Ports[0].Source = "opcua <&>", watch.SourceFlag
	s.Watch.Data.Ports[2].Source = watch.SourceFlag
	gone := &s.Verdicts.Data[3]
	gone.Restarts = []verdict.Restart{{
		Address: any4, ReuseAddr: bindrule.No, ReusePort: bindrule.No,
		Verdict: verdict.Verdict{Verdict: gone.Port.Bind(bindrule.Request{Addr: any4, ReuseAddr: bindrule.No, ReusePort: bindrule.No, ListenersAside: true})},
	}}
	was := &gone.Restarts[0].Owner
	was.Process, was.PID, was.Processes, was.Unit = "modbus<d>", 815, 1, "modbus.service"
	for i := range s.Listeners.Data {
		g := &s.Listeners.Data[i]
		g.Owner.Process, g.Owner.PID, g.Owner.Processes, g.Owner.Unit = "server\n", 4000+i, i, "server.service"
		if i == 1 {
			g.Owner.Process, g.Owner.PID = "", 0 // the exporter may not look at the process
		}
		g.Queue, g.QueueLimit, g.QueueRatio, g.Drops, g.DropsKnown = 1, 128, 1.0/128, uint64(i), i != 2
	}
	full := &s.Listeners.Data[0]
	full.Queue, full.QueueLimit, full.QueueRatio = 129, 128, 129.0/128

	blue := snapshot.Namespace{Name: "blue\x1b<b>", Inode: 4026532001}
	one := reporttest.SnapshotOf([]bindrule.Socket{reporttest.Listener(any4, false, bindrule.Yes)})
	blue.Verdicts, blue.Listeners = one.Verdicts, one.Listeners
	blue.Reuse.Err = errors.New("read flags: <no>\nluck")
	watchIn(&blue)
	blue.Stack.Err = snapshot.ErrOff
	blue.Ephemeral.Err = snapshot.ErrOff
	s.Others = []snapshot.Namespace{blue}
	s.Inode = 4026531840
	addUDPPorts(s)
	return s
}

func twoFeatures() []sock.Feature {
	return []sock.Feature{{Name: "bind_tracing", Mode: "fexit", Works: true}, {Name: "reuse_flags", Reason: "no <BTF>"}}
}

func TestPortsHTMLAndJSON(t *testing.T) {
	h := newPages(t, troubledHost(), twoFeatures()...).Ports()
	reporttest.Golden(t, *update, "ports.html", get(t, h, "/ports?port=1-5000"))
	reporttest.Golden(t, *update, "ports.json", get(t, h, "/ports?format=json"))
}

func failure(port uint16, process string, before time.Duration, change func(*failures.Recent)) failures.Recent {
	f := failures.Recent{
		Netns: 4026531840, Watched: true, Port: port, PortKnown: true, Addr: any4, Family: sock.FamilyIPv4, Protocol: sock.TCP,
		Errno: unix.EADDRINUSE, Process: process, PID: 4711, Count: 1,
		First: pageTime.Add(-before), Last: pageTime.Add(-before),
		Request: bindrule.Request{Addr: any4, ReuseAddr: bindrule.No, ReusePort: bindrule.No, UID: bindrule.UIDOf(1000)},
		Host:    diagnosis.Host{UnprivilegedPortStart: -1},
	}
	if change != nil {
		change(&f)
	}
	return f
}

// hostWithFailures is a host on which binds failed.
func hostWithFailures() *snapshot.Snapshot {
	s := troubledHost()
	s.Binds.Data.Stats.Lost = 7
	s.Binds.Data.Recent = []failures.Recent{
		failure(4840, "opcua-server", time.Second, func(f *failures.Recent) {
			d := diagnosis.Of(&diagnosis.Facts{
				Errno: f.Errno, Port: f.Port, PortKnown: true, Request: f.Request, Seen: diagnosis.AtFailure,
				Blockers: []diagnosis.Blocker{{Socket: reporttest.TimeWait(lo4, 212, bindrule.No, left)}},
			})
			f.Settle(&d)
			f.Count, f.First = 17, f.First.Add(-time.Hour)
		}),
		failure(4841, "<script>alert(1", 100*time.Second, nil),
		failure(4842, "a\nb\"'\xff\xfe\u202ec", 150*time.Second, func(f *failures.Recent) { f.Errno, f.Addr = unix.EADDRNOTAVAIL, lo6 }),
		failure(80, "web", 3*time.Hour, func(f *failures.Recent) { f.Errno, f.Watched = unix.EACCES, false }),
		failure(81, "", 4*time.Hour, func(f *failures.Recent) { f.Netns, f.Watched = 4026539999, false }),
		failure(53, "dns", 90*time.Hour, func(f *failures.Recent) { f.Protocol, f.Watched = sock.UDP, false }),
		failure(0, "client", 91*time.Hour, func(f *failures.Recent) { f.Netns = 4026532001 }),
		failure(8080, "second", 91*time.Hour, func(f *failures.Recent) { f.Op = bindtrace.OpListen }),
		failure(443, "proxy", 91*time.Hour, func(f *failures.Recent) {
			f.Op, f.Errno, f.Addr = bindtrace.OpConnect, unix.EADDRNOTAVAIL, lo4
			f.Request.Addr = lo4
		}),
		failure(0, "ranged", 91*time.Hour, func(f *failures.Recent) { f.OwnRange, f.Watched = true, false }),
		failure(0, "odd", 92*time.Hour, func(f *failures.Recent) {
			f.PortKnown, f.Watched, f.Errno, f.Request.Ifindex = false, false, 4095, 3
		}),
	}
	return s
}

func TestFailuresHTMLAndJSON(t *testing.T) {
	h := newPages(t, hostWithFailures(), twoFeatures()...).Failures()
	reporttest.Golden(t, *update, "failures.html", get(t, h, "/failures?refresh=off"))
	reporttest.Golden(t, *update, "failures.json", get(t, h, "/failures?format=json"))
}

func TestEmptyPages(t *testing.T) {
	p := newPages(t, new(snapshot.Snapshot))
	if body := get(t, p.Ports(), "/ports"); !strings.Contains(body, "No port is watched") {
		t.Errorf("/ports without ports:\n%s", body)
	}
	if body := get(t, p.Failures(), "/failures"); !strings.Contains(body, "No bind has failed since the exporter started") {
		t.Errorf("/failures without failures:\n%s", body)
	}
}

func TestWorstPortsComeFirst(t *testing.T) {
	var got []string
	for _, p := range portsPage(t, troubledHost(), "").Ports {
		protocol := ""
		if p.Protocol != "tcp" {
			protocol = "/" + p.Protocol
		}
		got = append(got, fmt.Sprintf("%s%d%s%v", p.Netns, p.Port, protocol, p.Problems))
	}
	want := []string{
		"4843[down listener_gone]", "4842[no_listener]", "54/udp[no_socket]", "4840[queue_full]", "4841[restart_blocked no_reuseaddr]",
		"53/udp[dropping]", "4844[unknown]", "4846[only_ipv6]", "4845[]", "123/udp[]", "4840/udp[]", "blue\uFFFD<b>#40265320014840[]",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestWhatFailedIsSaidAndNothingIsGoodForIt(t *testing.T) {
	broken := errors.New("dump tcp sockets: <broken>")
	for _, tt := range []struct {
		name    string
		spoil   func(*snapshot.Snapshot)
		part    string
		outcome report.Outcome
	}{
		{"verdicts", func(s *snapshot.Snapshot) { s.Verdicts.Err = broken }, "restart", report.Unknown},
		{"listeners", func(s *snapshot.Snapshot) { s.Listeners.Err = broken }, "listener", report.Free},
		{"tcp", func(s *snapshot.Snapshot) { s.TCP.Err = broken }, "tcp", report.Free},
		{"reuse", func(s *snapshot.Snapshot) { s.Reuse.Err = broken }, "reuse", report.Free},
		{"watch", func(s *snapshot.Snapshot) { s.Watch.Err = broken }, "watch", report.Free},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := watching(reporttest.SnapshotOf([]bindrule.Socket{reporttest.Listener(any4, false, bindrule.Yes)}))
			tt.spoil(s)
			page := portsPage(t, s, "")
			if want := []missing.Part{{Part: tt.part, State: missing.Failed, Error: broken.Error()}}; !slices.Equal(page.Parts, want) {
				t.Errorf("parts %+v, want %+v", page.Parts, want)
			}
			row := page.Ports[0]
			if row.Outcome != tt.outcome || (tt.outcome == report.Unknown) != slices.Contains(row.Problems, NotKnown) {
				t.Errorf("outcome %s and problems %v, want %s", row.Outcome, row.Problems, tt.outcome)
			}
			if s.Listeners.Err != nil && row.Listeners != nil || s.TCP.Err != nil && (row.TimeWait != nil || row.Sockets != nil) || s.Verdicts.Err != nil && row.Binds != nil {
				t.Errorf("shows what is not known: %+v", row)
			}
			body := get(t, newPages(t, s).Ports(), "/ports")
			if want := "<li>" + tt.part + ": dump tcp sockets: &lt;broken&gt;</li>"; !strings.Contains(body, want) {
				t.Errorf("no %q in\n%s", want, body)
			}
		})
	}
}

func TestWhatIsOffIsNoFailure(t *testing.T) {
	s := watching(reporttest.SnapshotOf([]bindrule.Socket{reporttest.Listener(any4, false, bindrule.Yes)}))
	s.TCP.Err, s.Reuse.Err = snapshot.ErrOff, snapshot.ErrOff
	s.Binds.Err = snapshot.ErrOff
	p := newPages(t, s)
	if body := get(t, p.Ports(), "/ports"); !strings.Contains(body, "Switched off, and so not on this page: tcp, reuse.") || strings.Contains(body, "could be seen") {
		t.Errorf("/ports:\n%s", body)
	}
	if body := get(t, p.Failures(), "/failures"); !strings.Contains(body, "Whether binds have failed is not known.") || !strings.Contains(body, "Switched off") {
		t.Errorf("/failures:\n%s", body)
	}
}

// manyPorts is 500 namespaces with 512 ports each. The last one has a blocked port.
func manyPorts() *snapshot.Snapshot {
	all := make([][]bindrule.Socket, 512)
	for i := range all {
		all[i] = []bindrule.Socket{reporttest.Listener(any4, false, bindrule.Yes)}
	}
	s := watching(reporttest.SnapshotOf(all...))
	for i := range 499 {
		ns := s.Namespace
		ns.Name, ns.Inode = fmt.Sprintf("ns%d", i), uint32(i+1)
		ns.Reuse.Err = errors.New("no")
		s.Others = append(s.Others, ns)
	}
	bad := reporttest.SnapshotOf([]bindrule.Socket{reporttest.Listener(any4, false, bindrule.No), reporttest.TimeWait(lo4, 1, bindrule.No, left)})
	last := &s.Others[498]
	last.Verdicts, last.Listeners = bad.Verdicts, bad.Listeners
	watchIn(last)
	return s
}

func TestPageIsBoundedAndSaysWhatItLeavesOut(t *testing.T) {
	s := manyPorts()
	page := portsPage(t, s, "")
	if len(page.Ports) != maxRows || page.PortsLeftOut != 499*512+1-maxRows || len(page.Parts) != 20 || page.PartsLeftOut != 499-20 {
		t.Errorf("%d ports, %d left out, %d parts, %d left out", len(page.Ports), page.PortsLeftOut, len(page.Parts), page.PartsLeftOut)
	}
	if first := page.Ports[0]; first.Netns != "ns498" || first.Outcome != report.Blocked {
		t.Errorf("the first is %d of %s, %s; want the blocked one of ns498", first.Port, first.Netns, first.Outcome)
	}
	body := get(t, newPages(t, s).Ports(), "/ports")
	for _, want := range []string{fmt.Sprintf("%d more ports are left out", page.PortsLeftOut), fmt.Sprintf("and %d more", page.PartsLeftOut), "255489 watched ports"} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q", want)
		}
	}
	if len(body) > 1<<20 {
		t.Errorf("%d bytes, want no more than 1 MiB", len(body))
	}
}

func TestFilters(t *testing.T) {
	for _, tt := range []struct{ query, want string }{
		{"&port=4840", "4840 4840 4840"},
		{"&port=53", "53"},
		{"&port=4841-4842", "4842 4841"},
		{"&port=4841&port=4843", "4843 4841"},
		{"&port=", "4843 4842 54 4840 4841 53 4844 4846 4845 123 4840 4840"},
		{"&netns=", "4843 4842 54 4840 4841 53 4844 4846 4845 123 4840"},
		{"&netns=" + url.QueryEscape("blue\x1b<b>"), "4840"},
		{"&netns=" + url.QueryEscape("blue\uFFFD<b>#4026532001"), "4840"},
		{"&netns=blue", ""},
		{"&netns=&port=4845", "4845"},
	} {
		var got []string
		for _, p := range portsPage(t, troubledHost(), tt.query).Ports {
			got = append(got, fmt.Sprint(p.Port))
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s: ports %s, want %s", tt.query, got, tt.want)
		}
	}
	for _, tt := range []struct{ query, want string }{
		{"&port=4840", "4840"},
		{"&port=0", "0 0"},
		{"&port=0-0", ""},
		{"&netns=" + url.QueryEscape("blue\x1b<b>"), "0"},
		{"&netns=", "4840 4841 4842 80 53 8080 443 0 -"},
	} {
		var page FailuresPage
		w := ask(newPages(t, hostWithFailures()).Failures(), "/failures?format=json"+tt.query, "")
		if w.Code == http.StatusBadRequest && tt.want == "" {
			continue
		}
		decode(t, w.Body.String(), &page)
		var got []string
		for _, f := range page.Failures {
			if f.Port == nil {
				got = append(got, "-")
				continue
			}
			got = append(got, fmt.Sprint(*f.Port))
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s: failures of %s, want %s", tt.query, got, tt.want)
		}
	}
}

func TestFormatIsNegotiated(t *testing.T) {
	const browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
	const asHTML, asJSON = "text/html; charset=utf-8", "application/json"
	for _, tt := range []struct{ query, accept, want string }{
		{"", "", asHTML},
		{"", "*/*", asHTML},
		{"", browser, asHTML},
		{"", "application/json", asJSON},
		{"", "APPLICATION/JSON", asJSON},
		{"", "application/json, text/plain, */*", asJSON},
		{"", "application/*", asJSON},
		{"", "application/json;q=0.5, text/html", asHTML},
		{"", "application/json, text/html;q=0.9", asJSON},
		{"", "application/json, text/html", asHTML},
		{"", "application/json;q=0", asHTML},
		{"", "application/json;q=0, */*", asHTML},
		{"", "text/html;q=0, */*;q=0.1", asJSON},
		{"", "application/json;q=nonsense", asHTML}, // a weight of 0, as goautoneg reads it
		{"", "image/png", asHTML},
		{"?format=json", browser, asJSON},
		{"?format=html", "application/json", asHTML},
	} {
		for path, h := range handlers(t) {
			if got := ask(h, path+tt.query, tt.accept).Header().Get("Content-Type"); got != tt.want {
				t.Errorf("%s%s with Accept %q: %s, want %s", path, tt.query, tt.accept, got, tt.want)
			}
		}
	}
}

func handlers(t *testing.T) map[string]http.Handler {
	t.Helper()
	p := newPages(t, new(snapshot.Snapshot))
	return map[string]http.Handler{"/ports": p.Ports(), "/failures": p.Failures()}
}

func TestBadQueriesAreToldWhatWouldBeRight(t *testing.T) {
	for query, want := range map[string]string{
		"?format=xml":  `format="xml": want json or html`,
		"?format=":     `format="": want json or html`,
		"?refresh=1":   `refresh="1": want on or off`,
		"?port=http":   `port="http": port "http" is not a number, want 1 to 65535`,
		"?port=90-80":  `port="90-80": range "90-80" is reversed, want "80-90"`,
		"?port=<b>":    `port="<b>": port "<b>" is not a number, want 1 to 65535`,
		"?format=%zz":  `read query: invalid URL escape "%zz"`,
		"?port=1&port": "",
	} {
		for path, h := range handlers(t) {
			w := ask(h, path+query, "")
			if want == "" {
				if w.Code != http.StatusOK {
					t.Errorf("%s%s: status %d, want 200", path, query, w.Code)
				}
				continue
			}
			if w.Code != http.StatusBadRequest || w.Body.String() != want+"\n" || w.Header().Get("Content-Type") != "text/plain; charset=utf-8" {
				t.Errorf("%s%s: status %d, %s, %q, want 400, text and %q", path, query, w.Code, w.Header().Get("Content-Type"), w.Body, want)
			}
		}
	}
}

func TestBrowserMayLoadAndRunNothing(t *testing.T) {
	for path, h := range handlers(t) {
		header := ask(h, path, "").Header()
		policy := header.Get("Content-Security-Policy")
		if !strings.HasPrefix(policy, "default-src 'none'; style-src 'sha256-") || strings.Contains(policy, "unsafe") {
			t.Errorf("%s: Content-Security-Policy %q", path, policy)
		}
		for key, want := range map[string]string{"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Vary": "Accept"} {
			if got := header.Get(key); got != want {
				t.Errorf("%s: %s %q, want %q", path, key, got, want)
			}
		}
	}
}

func TestPageDoesNotWaitForEverForItsSnapshot(t *testing.T) {
	p, err := New(Config{Take: func(ctx context.Context) snapshot.Snapshot {
		s := new(snapshot.Snapshot)
		if _, ok := ctx.Deadline(); !ok {
			t.Error("the snapshot may take for ever")
		}
		return *s
	}})
	if err != nil {
		t.Fatal(err)
	}
	get(t, p.Ports(), "/ports")
}

func TestPageThatCannotBeRenderedIsLoggedAtABoundedRate(t *testing.T) {
	var out bytes.Buffer
	p, err := New(Config{Logger: slog.New(slog.NewTextHandler(&out, nil))})
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		w := httptest.NewRecorder()
		p.render(w, "ports", true, math.NaN())
		if w.Code != http.StatusInternalServerError {
			t.Fatalf("status %d, want 500", w.Code)
		}
	}
	if n := strings.Count(out.String(), "page=ports"); n != logBurst {
		t.Errorf("%d lines, want %d", n, logBurst)
	}
}
