package exporter

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/tracers"
	"sockstate_exporter/internal/pages"
	"sockstate_exporter/test/launch"
)

// hostileNames are what processes call themselves, in 15 bytes, and how a page shows that.
func hostileNames() map[string]string {
	return map[string]string{
		"<script>x=1//":   `"<script>x=1//"`,
		"<img/onerror=x>": `"<img/onerror=x>"`,
		"\"'><b onload=x": `"\"'><b onload=x"`,
		"a\nb\tc\r":       `"a\nb\tc\r"`,
		"\xff\xfe\x80":    `"\xff\xfe\x80"`,
		"\u202egpj.exe":   `"\u202egpj.exe"`,
		"</td></table>":   `"</td></table>"`,
		"{{.Title}}":      `"{{.Title}}"`,
		"opcua-server":    `opcua-server`,
	}
}

// as does something while this process has another name, which is that of its main thread.
func as(name string, do func() error) error {
	const comm = "/proc/self/comm"
	before, err := os.ReadFile(comm)
	if err != nil {
		return err
	}
	if err := os.WriteFile(comm, []byte(name), 0); err != nil {
		return err
	}
	return errors.Join(do(), os.WriteFile(comm, bytes.TrimSuffix(before, []byte("\n")), 0))
}

// failAs fails to bind to the port, as a process of that name.
func failAs(ns *kerneltest.NetNS, name string, port uint16) error {
	return as(name, func() error { return ns.Run(func() error { return bindInUse(port) }) })
}

func bindInUse(port uint16) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: int(port)}); !errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("bind: %w, want %w", err, unix.EADDRINUSE)
	}
	return nil
}

// trouble is an exporter on a host with a blocked port, one that nobody listens on, some that
// are fine, and failed binds.
func trouble(t *testing.T) *kerneltest.NetNS {
	t.Helper()
	ns := kerneltest.New(t)
	blocked := ns.Listen(t, netip.AddrPortFrom(netip.IPv4Unspecified(), 4840), kerneltest.Options{})
	ns.Listen(t, netip.AddrPortFrom(netip.IPv6Unspecified(), 8080), kerneltest.Options{ReuseAddr: true})
	ns.Listen(t, netip.MustParseAddrPort("[::1]:9000"), kerneltest.Options{ReuseAddr: true})
	ns.Listen(t, netip.MustParseAddrPort("127.0.0.1:9000"), kerneltest.Options{ReuseAddr: true})
	datagrams := ns.ListenUDP(t, loopback(5353), kerneltest.Options{})
	ns.ListenUDP(t, netip.AddrPortFrom(netip.IPv6Unspecified(), 123), kerneltest.Options{})
	// A live connection: unlike TIME_WAIT it stays for as long as the test takes.
	blocked.Peers(t, kerneltest.StateEstablished, 3, loopback(0).Addr())
	e := startTracing(t, ns, "--watch.port=4840:opcua <ua>", "--watch.port=1883", "--watch.port=53/udp:dns",
		"--watch.exclude=1024-5352/udp", "--watch.exclude=5354-65535/udp") // the browser binds to any of them
	overfill(t, e, ns, datagrams)
	tracers.Share(t)
	for name := range hostileNames() {
		if err := failAs(ns, name, 4840); err != nil {
			t.Fatal(err)
		}
	}
	deadline := time.Now().Add(patience)
	for {
		var page pages.FailuresPage
		if err := json.Unmarshal([]byte(e.Get(t, "/failures?format=json&netns=&port=4840")), &page); err != nil {
			t.Fatal(err)
		}
		settled := !slices.ContainsFunc(page.Failures, func(f pages.FailureRow) bool { return f.Diagnosis == nil || f.Diagnosis.Code == "unknown" })
		if len(page.Failures) == len(hostileNames()) && settled {
			return ns
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d failures, want %d with their diagnosis: %+v\n%s", len(page.Failures), len(hostileNames()), page.Failures, e.Log)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// overfill drops datagrams, which nobody reads, until the exporter has seen it.
func overfill(t *testing.T, e *exporter, ns *kerneltest.NetNS, to *kerneltest.Socket) {
	t.Helper()
	if err := unix.SetsockoptInt(to.FD(), unix.SOL_SOCKET, unix.SO_RCVBUF, 1); err != nil { // the least there is
		t.Fatal(err)
	}
	from := ns.DialUDP(t, loopback(0), to.Addr(), kerneltest.Options{})
	deadline := time.Now().Add(patience)
	for {
		var page pages.PortsPage
		if err := json.Unmarshal([]byte(e.Get(t, fmt.Sprintf("/ports?format=json&port=%d", to.Addr().Port()))), &page); err != nil {
			t.Fatal(err)
		}
		if len(page.Ports) == 1 && slices.Contains(page.Ports[0].Problems, pages.Dropping) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no drops are seen: %+v\n%s", page, e.Log)
		}
		for range 100 {
			if _, err := unix.Write(from.FD(), make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func screens() []screen {
	return []screen{
		{name: "desktop", width: 1400, height: 900},
		{name: "dark", width: 1400, height: 900, dark: true},
		{name: "phone", width: 360, height: 800, phone: true},
		{name: "phone-dark", width: 320, height: 640, phone: true, dark: true},
	}
}

// Expressions that a page answers for itself.
const (
	// What has no business in a page: elements that run or load something, attributes that do.
	intruders = `[...document.querySelectorAll('*')].filter(e => ['SCRIPT', 'IMG', 'IFRAME', 'OBJECT', 'EMBED', 'LINK', 'SVG', 'BASE', 'B'].includes(e.tagName.toUpperCase()) ||
		[...e.attributes].some(a => a.name.startsWith('on') || a.name == 'style' || a.name == 'src')).map(e => e.outerHTML)`
	// What sticks out to the right. On a phone innerWidth grows with what does.
	overflow = `[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1).map(e => e.outerHTML.slice(0, 200))
		.concat(document.documentElement.scrollWidth > document.documentElement.clientWidth ? ['the page is ' + document.documentElement.scrollWidth + ' wide'] : [])`
	// Text with a contrast below 4.5 to 1 (WCAG 2.2, 1.4.3).
	faint = `(() => {
		const rgba = s => s.match(/[\d.]+/g).map(Number);
		const light = c => c.slice(0, 3).map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
			.reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
		const behind = e => { for (; e; e = e.parentElement) { const c = rgba(getComputedStyle(e).backgroundColor); if (c.length == 3 || c[3] == 1) return c; } return [255, 255, 255]; };
		return [...document.querySelectorAll('body *')].filter(e => [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim())).filter(e => {
			const a = light(rgba(getComputedStyle(e).color)), b = light(behind(e));
			return (Math.max(a, b) + .05) / (Math.min(a, b) + .05) < 4.5;
		}).map(e => e.outerHTML.slice(0, 200));
	})()`
	brightness = `getComputedStyle(document.body).backgroundColor.match(/\d+/g).slice(0, 3).reduce((sum, v) => sum + Number(v), 0) / 765`
)

// list is an expression's list of strings.
func (b *browser) list(expression string) []string {
	b.t.Helper()
	var out []string
	b.evaluate(expression, &out)
	return out
}

// of is the browser for a subtest.
func (b *browser) of(t *testing.T) *browser {
	b.t = t
	return b
}

// checkLook holds what every page has to hold on every screen.
func (b *browser) checkLook(t *testing.T, s screen) {
	t.Helper()
	for what, expression := range map[string]string{"has no business there": intruders, "does not fit": overflow, "can hardly be read": faint} {
		if found := b.list(expression); len(found) > 0 {
			t.Errorf("%s:\n%s", what, strings.Join(found, "\n"))
		}
	}
	var bright float64
	if b.evaluate(brightness, &bright); (bright < 0.5) != s.dark {
		t.Errorf("the background's brightness is %.2f of 1, dark is %v", bright, s.dark)
	}
	for _, m := range b.events {
		switch m.Method {
		case "Page.javascriptDialogOpening", "Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded":
			t.Errorf("%s: %s", m.Method, m.Params)
		}
	}
	if n := b.count("Network.requestWillBeSent"); n != 1 {
		t.Errorf("the page took %d requests, want 1", n)
	}
}

func TestPagesInABrowser(t *testing.T) {
	ns := trouble(t)
	b := openBrowser(t, ns)
	for _, s := range screens() {
		t.Run(s.name, func(t *testing.T) {
			b := b.of(t)
			b.open(s, "/ports?refresh=off")
			b.checkLook(t, s)
			b.screenshot("ports-" + s.name)
			want := []string{"1883", "4840", "10048", "2743", "443", "8080", "9000", "53", "123", "5353"}
			got := b.list(`[...document.querySelectorAll('.port')].map(e => e.innerText)`)
			slices.Sort(got)
			if slices.Sort(want); !slices.Equal(got, want) {
				t.Errorf("ports %q, want %q", got, want)
			}
			if got, want := b.list(`[...document.querySelectorAll('tbody')].filter(e => e.innerText.includes('dropping')).map(e => e.querySelector('.port').innerText)`), []string{"5353"}; !slices.Equal(got, want) {
				t.Errorf("dropping are %q, want %q", got, want)
			}

			b.open(s, "/failures?refresh=off&netns=&port=4840")
			b.checkLook(t, s)
			b.screenshot("failures-" + s.name)
			text := strings.Join(b.list(`[...document.querySelectorAll('tbody')].map(e => e.innerText)`), "\n")
			for name, shown := range hostileNames() {
				if !strings.Contains(text, shown+" (pid ") {
					t.Errorf("%q is not shown as %s in\n%s", name, shown, text)
				}
			}

			for name, path := range map[string]string{"diagnoses": "/diagnoses", "start": "/"} {
				b.open(s, path)
				b.checkLook(t, s)
				b.screenshot(name + "-" + s.name)
			}
		})
	}
}

// manyPorts is an ordinary user's exporter on a host with 500 servers, one of which no restart would start again, and
// one with a full accept queue.
func manyPorts(t *testing.T) *kerneltest.NetNS {
	t.Helper()
	ns := kerneltest.New(t)
	for port := range uint16(500) {
		o := kerneltest.Options{ReuseAddr: port != 250}
		if port == 400 {
			o.Backlog = 1
		}
		l := ns.Listen(t, netip.AddrPortFrom(netip.IPv4Unspecified(), 1000+port), o)
		switch {
		case port == 400:
			l.Queue(t, 2, loopback(0).Addr())
		case port == 250:
			l.Peers(t, kerneltest.StateCloseWait, 9, loopback(0).Addr())
		case port%2 == 0:
			o.V6Only = new(true)
			ns.Listen(t, netip.AddrPortFrom(netip.IPv6Unspecified(), 1000+port), o)
		}
	}
	e := launch.New(t, ns, "--watch.exclude=1-65535/udp")
	e.Cmd.As(65534, 65534)
	e.Run(t)
	return ns
}

// lineHeights are how high the lines of ports that are fine are, in lines of text.
const lineHeights = `[...document.querySelectorAll('tbody.line tr')].map(e => e.getBoundingClientRect().height / parseFloat(getComputedStyle(document.body).lineHeight))`

func TestFiveHundredPortsInABrowser(t *testing.T) {
	b := openBrowser(t, manyPorts(t))
	for _, s := range screens() {
		t.Run(s.name, func(t *testing.T) {
			b := b.of(t)
			b.open(s, "/ports?refresh=off")
			b.checkLook(t, s)
			b.screenshot("500-ports-" + s.name)
			var heights []float64
			if b.evaluate(lineHeights, &heights); len(heights) < 490 || slices.Max(heights) > 2 {
				t.Errorf("%d ports are fine, want more than 490; the highest takes %v lines, want one", len(heights), slices.Max(heights))
			}
			rows := b.list(`[...document.querySelectorAll('tbody')].map(e => e.textContent.trim())`)
			for i, want := range []string{"1400", "1250"} {
				if !strings.HasPrefix(rows[i], want) {
					t.Errorf("row %d begins %.20q, want %s: the worst come first", i, rows[i], want)
				}
			}
			if !strings.Contains(rows[0], "does not call accept() fast enough") {
				t.Errorf("the full queue has no advice: %q", rows[0])
			}
			hint := strings.Join(b.list(`[...document.querySelectorAll('.box.warn')].map(e => e.innerText)`), "\n")
			for _, want := range []string{"runs without privileges", "failed binds", "other users", "sudo /"} {
				if !strings.Contains(hint, want) {
					t.Errorf("what it may not see: no %q in %q", want, hint)
				}
			}
			for _, row := range rows {
				if strings.HasPrefix(row, "10048") && (strings.Contains(row, "ESTABLISHED") || strings.Contains(row, "unknown:")) {
					t.Errorf("the exporter's own connections are shown: %q", row)
				}
			}
		})
	}
}

func TestPageReloadsItselfAndFilters(t *testing.T) {
	ns := trouble(t)
	b := openBrowser(t, ns)
	b.open(screens()[0], "/ports")
	var seen string
	const clock = `document.querySelector('header p').innerText`
	b.evaluate(clock, &seen)
	b.events = nil
	b.loaded()
	var later string
	if b.evaluate(clock, &later); later == seen {
		t.Errorf("reloaded, and still it says %q", seen)
	}

	b.open(screens()[0], "/ports?refresh=off")
	for _, step := range []struct{ do, path string }{
		{`document.querySelector('[name=port]').value = '8000-9999'; document.querySelector('button').click()`, "/ports?refresh=off&port=8000-9999"},
		{`document.querySelector('a[href="?port=8000-9999"]').click()`, "/ports?port=8000-9999"},
		{`document.querySelector('a[href="failures"]').click()`, "/failures"},
		{`document.querySelector('a[href="?refresh=off"]').click()`, "/failures?refresh=off"},
	} {
		b.events = nil
		b.evaluate(step.do+"; ''", new(string))
		b.arrive(step.path)
	}
}
