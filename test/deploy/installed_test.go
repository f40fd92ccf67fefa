package deploy

import (
	"context"
	"encoding/json"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/timewait"
	"sockstate_exporter/test/launch"
)

// debianHost is this machine's system; `make test-long` takes a fresh one, from Debian's packages.
func debianHost(t *testing.T) host {
	t.Helper()
	if os.Getenv("SOCKSTATE_FRESH_DEBIAN") == "" {
		return newHost(t)
	}
	kerneltest.RequireRoot(t)
	dir := t.TempDir()
	run(t, exec.Command(kerneltest.RequireCommand(t, "mmdebstrap"), "--variant=apt", "--include=passwd", "bookworm", dir))
	h := host(dir)
	h.mountKernel(t)
	return h
}

// monitor does on the host what README says: Prometheus scrapes the exporter, and has its rules.
// A server stops, and cannot start again; that is read off in Prometheus and on the command line.
func (h host) monitor(t *testing.T) {
	t.Helper()
	prometheus := kerneltest.RequireCommand(t, "prometheus")
	withoutAdmin(t)
	h.do(t, "mkdir -p /etc/prometheus/rules && cp "+share+"/alerts/sockstate.rules.yml /etc/prometheus/rules")
	write(t, string(h)+"/etc/prometheus/prometheus.yml", "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"+scrapeConfig(t, string(h)+share+"/README.md", string(h)))

	ns := kerneltest.New(t)
	u := parseUnits(t, string(h)+"/usr/lib/systemd/system/sockstate_exporter.service")
	e := start(t, ns, newSandbox(t, u).command(t, ns, string(h)+"/usr/bin/sockstate_exporter", u.args(t, map[string]string{"ARGS": ""})...))
	t.Cleanup(e.Stop)
	cmd := ns.Command(t, prometheus, "--config.file="+string(h)+"/etc/prometheus/prometheus.yml", "--storage.tsdb.path="+t.TempDir(), "--web.listen-address=127.0.0.1:9090")
	log := new(kerneltest.Log)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cmd.Kill)

	server := ns.Listen(t, netip.MustParseAddrPort("127.0.0.1:4840"), kerneltest.Options{})
	await(t, e, log, `sockstate_tcp_listener_info{port="4840"}`)
	timewait.MustMake(t, ns, timewait.Options{Count: 5, Listeners: []*kerneltest.Listener{server}})
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := ns.OpenListener(server.Addr(), kerneltest.Options{}); err == nil {
		t.Fatal("the server can start")
	}
	await(t, e, log, `sockstate_tcp_restart_blocked_seconds{port="4840"} > 0`)
	await(t, e, log, `sockstate_bind_conflicts_total{port="4840", diagnosis="time_wait"} == 1`)
	await(t, e, log, `ALERTS{alertname="SockstateBindBlocked", port="4840"}`)
	check := ns.Command(t, "chroot", string(h), "/usr/bin/sockstate_exporter", "check", "4840")
	if out, _ := check.CombinedOutput(); !strings.HasPrefix(string(out), "4840: blocked by 5 sockets in TIME_WAIT") {
		t.Errorf("check says\n%s", out)
	}
}

// scrapeConfig is what README gives to paste, with the paths of the host.
func scrapeConfig(t *testing.T, readme, host string) string {
	t.Helper()
	m := regexp.MustCompile("(?s)```yaml\n(scrape_configs:.*?)```").FindStringSubmatch(read(t, readme))
	if m == nil {
		t.Fatal("README has no scrape_configs")
	}
	return strings.ReplaceAll(m[1], "/etc/", host+"/etc/")
}

// await waits until Prometheus has an answer.
func await(t *testing.T, e *exporter, log *kerneltest.Log, query string) {
	t.Helper()
	var answer struct {
		Data struct{ Result []any }
	}
	var last error
	for deadline := time.Now().Add(launch.Patience); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(t.Context(), launch.Patience)
		status, body, err := launch.Get(ctx, e.Client, "http://127.0.0.1:9090/api/v1/query?query="+url.QueryEscape(query))
		cancel()
		if last = err; err != nil || status != http.StatusOK {
			continue
		}
		if last = json.Unmarshal([]byte(body), &answer); last == nil && len(answer.Data.Result) > 0 {
			return
		}
	}
	t.Fatalf("%s: no answer (%v)\nthe exporter wrote\n%s\nPrometheus wrote\n%s", query, last, e.Log, log)
}
