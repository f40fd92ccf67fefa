package exporter

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"sockstate_exporter/internal/kerneltest"
)

// patience is for how long a browser may take for one thing, on a machine with much else to do.
const patience = 2 * time.Minute

// A browser is a headless Chromium with one tab, inside a network namespace. It is driven over
// a pipe, by the DevTools protocol: messages in JSON that end with a NUL.
type browser struct {
	t       *testing.T
	to      io.Writer
	from    <-chan message
	session string
	last    int
	events  []message // since the page was opened
}

type message struct {
	ID     int             `json:"id,omitempty"`
	Method string          `json:"method,omitempty"`
	Params json.RawMessage `json:"params,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
	Error  *struct {
		Message string `json:"message"`
	} `json:"error,omitempty"`
	Session string `json:"sessionId,omitempty"`
}

// openBrowser starts one. Its processes are in a pid namespace of theirs, and so end with the
// first of them.
func openBrowser(t *testing.T, ns *kerneltest.NetNS) *browser {
	t.Helper()
	kerneltest.RequireRoot(t)
	path := kerneltest.RequireCommand(t, "chromium")
	dir := t.TempDir()
	cmd := ns.Command(t, path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-breakpad",
		"--disable-dev-shm-usage", "--log-level=3", "--hide-scrollbars", "--user-data-dir="+filepath.Join(dir, "data"), "--remote-debugging-pipe")
	cmd.Env = append(os.Environ(), "HOME="+dir, "TMPDIR="+dir, "XDG_CONFIG_HOME="+dir, "XDG_CACHE_HOME="+dir, "XDG_RUNTIME_DIR="+dir)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	log := new(kerneltest.Log)
	cmd.Stdout, cmd.Stderr = log, log
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("chromium said\n%s", log)
		}
	})

	theirIn, ourOut := pipe(t)
	ourIn, theirOut := pipe(t)
	cmd.ExtraFiles = []*os.File{theirIn, theirOut} // 3 and 4
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirIn.Close()
	theirOut.Close()
	b := &browser{t: t, to: ourOut, from: messages(ourIn)}
	b.openTab()
	return b
}

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// messages are those that come, until there are no more.
func messages(r io.Reader) <-chan message {
	out := make(chan message, 10_000)
	go func() {
		defer close(out)
		for in := bufio.NewReader(r); ; {
			b, err := in.ReadBytes(0)
			if err != nil {
				return
			}
			var m message
			if json.Unmarshal(b[:len(b)-1], &m) == nil {
				out <- m
			}
		}
	}()
	return out
}

func (b *browser) openTab() {
	b.t.Helper()
	var target struct{ TargetID string }
	b.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct{ SessionID string }
	b.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	b.session = attached.SessionID
	for _, domain := range []string{"Page", "Network", "Log", "Runtime"} {
		b.call(domain+".enable", nil, nil)
	}
}

// call sends a command and waits for its result.
func (b *browser) call(method string, params map[string]any, result any) {
	b.t.Helper()
	b.last++
	out, err := json.Marshal(map[string]any{"id": b.last, "method": method, "params": params, "sessionId": b.session})
	if b.session == "" {
		out, err = json.Marshal(map[string]any{"id": b.last, "method": method, "params": params})
	}
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.to.Write(append(out, 0)); err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
	m := b.next(method, func(m message) bool { return m.ID == b.last })
	if m.Error != nil {
		b.t.Fatalf("%s: %s", method, m.Error.Message)
	}
	if result != nil {
		if err := json.Unmarshal(m.Result, result); err != nil {
			b.t.Fatalf("%s: %v", method, err)
		}
	}
}

// next is the next message that is wanted; events before it are kept.
func (b *browser) next(what string, wanted func(message) bool) message {
	b.t.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		select {
		case m, ok := <-b.from:
			if !ok {
				b.t.Fatalf("%s: chromium has ended", what)
			}
			if m.Method != "" {
				b.events = append(b.events, m)
			}
			if wanted(m) {
				return m
			}
		case <-timeout.C:
			b.t.Fatalf("%s: nothing within %v", what, patience)
		}
	}
}

// A screen is what a page is looked at with.
type screen struct {
	name          string
	width, height int
	phone, dark   bool
}

// open shows a page of the exporter.
func (b *browser) open(s screen, path string) {
	b.t.Helper()
	b.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": s.width, "height": s.height, "deviceScaleFactor": 1, "mobile": s.phone}, nil)
	scheme := "light"
	if s.dark {
		scheme = "dark"
	}
	b.call("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}}, nil)
	b.events = nil
	b.call("Page.navigate", map[string]any{"url": "http://" + address + path}, nil)
	b.loaded()
}

// loaded waits until a page is.
func (b *browser) loaded() {
	b.t.Helper()
	if b.count("Page.loadEventFired") == 0 {
		b.next("load the page", func(m message) bool { return m.Method == "Page.loadEventFired" })
	}
}

// arrive waits until a page is open, whatever others come before.
func (b *browser) arrive(path string) {
	b.t.Helper()
	is := func(m message) bool {
		var p struct{ Frame struct{ URL string } }
		return m.Method == "Page.frameNavigated" && json.Unmarshal(m.Params, &p) == nil && p.Frame.URL == "http://"+address+path
	}
	at := slices.IndexFunc(b.events, is)
	if at < 0 {
		b.next("go to "+path, is)
		at = len(b.events) - 1
	}
	b.events = b.events[at:]
	b.loaded()
}

// count says how often something happened since the page was opened.
func (b *browser) count(method string) (n int) {
	for _, m := range b.events {
		if m.Method == method {
			n++
		}
	}
	return n
}

// evaluate is the value of an expression, in the page.
func (b *browser) evaluate(expression string, value any) {
	b.t.Helper()
	var out struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails *struct{ Exception struct{ Description string } }
	}
	b.call("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true}, &out)
	if out.ExceptionDetails != nil {
		b.t.Fatalf("%s: %s", expression, out.ExceptionDetails.Exception.Description)
	}
	if err := json.Unmarshal(out.Result.Value, value); err != nil {
		b.t.Fatalf("%s: %v", expression, err)
	}
}

// screenshotsEnv is a directory where to keep pictures of what was tested.
const screenshotsEnv = "SOCKSTATE_TEST_SCREENSHOTS"

func (b *browser) screenshot(name string) {
	b.t.Helper()
	dir := os.Getenv(screenshotsEnv)
	if dir == "" {
		return
	}
	var shot struct{ Data []byte }
	b.call("Page.captureScreenshot", map[string]any{"captureBeyondViewport": true}, &shot)
	if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s.png", name)), shot.Data, 0o644); err != nil {
		b.t.Fatal(err)
	}
}
