package exporter

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/unixsocket"
)

// unixSamples are the metrics of watched paths, without the directory.
func unixSamples(t *testing.T, e *exporter, dir string) map[string]float64 {
	t.Helper()
	out := make(map[string]float64)
	for name, v := range samples(t, e, "sockstate_unix_listener_accept_queue", "sockstate_unix_listener_accept_queue_limit", "sockstate_unix_path_unreached_listeners") {
		out[strings.ReplaceAll(strings.TrimPrefix(name, "sockstate_unix_"), dir+"/", "")] = v
	}
	return out
}

func TestWatchedUnixSockets(t *testing.T) {
	ns, dir := kerneltest.New(t), t.TempDir()
	path := filepath.Join(dir, "app.sock")
	e := start(t, ns, "--watch.unix="+dir+"/*.sock", "--watch.unix="+dir+"/named")
	if got := unixSamples(t, e, dir); len(got) != 0 {
		t.Errorf("before anything listens: %v", got)
	}
	unixsocket.Listen(t, ns, path)
	client, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(client)
	if err := unix.Connect(client, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	want := map[string]float64{`listener_accept_queue{path="app.sock"}`: 1, `listener_accept_queue_limit{path="app.sock"}`: 5}
	if got := unixSamples(t, e, dir); !maps.Equal(got, want) {
		t.Errorf("a listener: %v, want %v", got, want)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	unixsocket.Listen(t, ns, path)
	want[`listener_accept_queue{path="app.sock"}`] = 0
	want[`path_unreached_listeners{diagnosis="unix_shadowed",path="app.sock"}`] = 1
	if got := unixSamples(t, e, dir); !maps.Equal(got, want) {
		t.Errorf("two listeners: %v, want %v", got, want)
	}
	if page := e.Get(t, "/ports"); !strings.Contains(page, "<h2>Unix sockets</h2>") || !strings.Contains(page, "no client reaches it") {
		t.Errorf("/ports does not say that a listener is cut off:\n%s", page)
	}
}

// A failed bind is counted, and has a row with a diagnosis and a line in the log.
func TestFailedBindOfAUnixSocket(t *testing.T) {
	ns, dir := kerneltest.New(t), t.TempDir()
	path := filepath.Join(dir, "app.sock")
	e := startTracing(t, ns)
	unixsocket.Listen(t, ns, path)
	fd := unixsocket.Open(t, ns, unix.SOCK_STREAM, "")
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); !errors.Is(err, unix.EADDRINUSE) {
		t.Fatal(err)
	}
	series := `sockstate_unix_bind_failures_total{errno="EADDRINUSE"}`
	if got := samples(t, e, "sockstate_unix_bind_failures_total"); got[series] != 1 {
		t.Errorf("counted %v, want 1 of %s", got, series)
	}
	type row struct {
		Name, Errno string
		Diagnosis   *struct{ Code string }
	}
	var rows []row
	settled := func() bool {
		var page struct{ Unix []row }
		if err := json.Unmarshal([]byte(e.Get(t, "/failures?format=json")), &page); err != nil {
			t.Fatal(err)
		}
		rows = page.Unix
		return slices.ContainsFunc(rows, func(r row) bool {
			return r.Name == path && r.Errno == "EADDRINUSE" && r.Diagnosis != nil && r.Diagnosis.Code == "unix_in_use"
		})
	}
	for until := time.Now().Add(time.Minute); !settled(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("the rows are %+v", rows)
		}
	}
	if log := e.Log.String(); !strings.Contains(log, fmt.Sprintf("path=%s diagnosis=unix_in_use", path)) {
		t.Errorf("the log does not say it:\n%s", log)
	}
}
