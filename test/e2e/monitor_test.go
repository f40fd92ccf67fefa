package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/common/model"

	"sockstate_exporter/internal/kerneltest"
)

// job is what Prometheus calls the exporters.
const job = "sockstate"

// In the monitor's namespace, which has nothing else.
const (
	prometheusPort   = 9090
	alertmanagerPort = 9093
	hookPort         = 9099
	firstTargetPort  = 10048
)

// A monitor is Prometheus and Alertmanager in a namespace, with a webhook that remembers what
// it is told.
type monitor struct {
	ns      *kerneltest.NetNS
	dir     string
	client  *http.Client
	targets map[string]netip.AddrPort // by instance
	hook    *webhook
}

func newMonitor(t *testing.T) *monitor {
	t.Helper()
	kerneltest.RequireRoot(t)
	m := &monitor{ns: kerneltest.New(t), dir: t.TempDir(), targets: make(map[string]netip.AddrPort)}
	m.client = &http.Client{Timeout: time.Minute, Transport: &http.Transport{DialContext: m.ns.DialContext}}
	t.Cleanup(m.client.CloseIdleConnections)
	return m
}

// add makes an exporter a target. Prometheus is not running yet.
func (m *monitor) add(t *testing.T, e *exporter) {
	t.Helper()
	addr := loopback(uint16(firstTargetPort + len(m.targets)))
	m.targets[e.instance] = addr
	e.serveOn(t, m.ns, addr)
	e.start(t)
}

// start starts Prometheus, which sends alerts to the addresses, and waits until it has scraped
// every target twice: what counters rise by from then on is seen.
func (m *monitor) start(t *testing.T, alertmanagers ...string) {
	t.Helper()
	prometheus := program(t, "prometheus")
	out := start(t, "prometheus", m.ns.Command(t, prometheus,
		"--config.file="+prometheusConfig(t, m.dir, m.targets, alertmanagers...),
		"--storage.tsdb.path="+filepath.Join(m.dir, "prometheus"),
		"--web.listen-address="+loopback(prometheusPort).String(),
		"--rules.alert.resend-delay="+evaluationInterval,
	))
	eventually(t, "Prometheus scrapes all targets", func() string {
		v, err := m.query(`count(sum_over_time(up[1h]) >= 2) or vector(0)`)
		if err != nil {
			return fmt.Sprintf("%v\n%s", err, tail(out.String(), 2000))
		}
		if got := int(v[0].Value); got != len(m.targets) {
			return fmt.Sprintf("%d of %d", got, len(m.targets))
		}
		return ""
	})
}

// startAlertmanager starts it, with the test at the other end.
func (m *monitor) startAlertmanager(t *testing.T) {
	t.Helper()
	alertmanager := program(t, "prometheus-alertmanager")
	m.hook = serveWebhook(t, m.ns)
	start(t, "alertmanager", m.ns.Command(t, alertmanager,
		"--config.file="+webhookConfig(t, m.dir, loopback(hookPort)),
		"--storage.path="+filepath.Join(m.dir, "alertmanager"),
		"--web.listen-address="+loopback(alertmanagerPort).String(),
		"--cluster.listen-address=", // no peers
	))
}

// get asks Prometheus or Alertmanager.
func (m *monitor) get(port uint16, path string, values url.Values, answer any) error {
	u := url.URL{Scheme: "http", Host: loopback(port).String(), Path: path, RawQuery: values.Encode()}
	resp, err := m.client.Get(u.String())
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("get %s: %w", path, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("get %s: %s: %s", path, resp.Status, body)
	}
	if err := json.Unmarshal(body, answer); err != nil {
		return fmt.Errorf("get %s: %w", path, err)
	}
	return nil
}

// ask asks Prometheus, for what stands in the data of its answer.
func (m *monitor) ask(path string, values url.Values, data any) error {
	answer := struct{ Data any }{data}
	return m.get(prometheusPort, "/api/v1/"+path, values, &answer)
}

// query is an instant query.
func (m *monitor) query(expr string) (model.Vector, error) {
	var data struct {
		ResultType model.ValueType
		Result     json.RawMessage
	}
	if err := m.ask("query", url.Values{"query": {expr}}, &data); err != nil {
		return nil, err
	}
	if data.ResultType == model.ValScalar {
		var s model.Scalar
		if err := json.Unmarshal(data.Result, &s); err != nil {
			return nil, fmt.Errorf("answer to %s: %w", expr, err)
		}
		return model.Vector{{Value: s.Value, Timestamp: s.Timestamp}}, nil
	}
	var v model.Vector
	if err := json.Unmarshal(data.Result, &v); err != nil {
		return nil, fmt.Errorf("answer to %s: %w", expr, err)
	}
	return v, nil
}

// queryRange is a query from a moment until now.
func (m *monitor) queryRange(expr string, from time.Time, step time.Duration) (model.Matrix, error) {
	seconds := func(t time.Time) string { return strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64) }
	var data struct{ Result model.Matrix }
	err := m.ask("query_range", url.Values{
		"query": {expr},
		"start": {seconds(from)},
		"end":   {seconds(time.Now())},
		"step":  {strconv.FormatFloat(step.Seconds(), 'f', 3, 64)},
	}, &data)
	return data.Result, err
}

// firing are the alerts that fire in Prometheus.
func (m *monitor) firing() ([]alert, error) {
	var data struct {
		Alerts []struct {
			alert
			State string
		}
	}
	if err := m.ask("alerts", nil, &data); err != nil {
		return nil, err
	}
	var firing []alert
	for _, a := range data.Alerts {
		if a.State == "firing" {
			firing = append(firing, a.alert)
		}
	}
	return firing, nil
}

// An alert is one that Prometheus evaluates, or Alertmanager tells of.
type alert struct {
	Status      string
	Labels      map[string]string
	Annotations map[string]string
}

// matches says whether the alert has all of the labels.
func (a *alert) matches(labels map[string]string) bool {
	for name, want := range labels {
		if a.Labels[name] != want {
			return false
		}
	}
	return true
}

// A webhook is the receiver of all notifications.
type webhook struct {
	mu       sync.Mutex
	received []alert
}

func serveWebhook(t *testing.T, ns *kerneltest.NetNS) *webhook {
	t.Helper()
	h := new(webhook)
	l := ns.Listen(t, loopback(hookPort), kerneltest.Options{})
	file := os.NewFile(uintptr(dup(t, l.FD())), "webhook")
	defer file.Close()
	listener, err := net.FileListener(file)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	var running sync.WaitGroup
	running.Go(func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("webhook: %v", err)
		}
	})
	t.Cleanup(func() {
		server.Close()
		running.Wait()
	})
	return h
}

func (h *webhook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var notification struct{ Alerts []alert }
	if err := json.NewDecoder(r.Body).Decode(&notification); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.received = append(h.received, notification.Alerts...)
}

// find is the first alert received of that status and with those labels.
func (h *webhook) find(status string, labels map[string]string) (alert, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, a := range h.received {
		if a.Status == status && a.matches(labels) {
			return a, true
		}
	}
	return alert{}, false
}

func (h *webhook) all() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return fmt.Sprint(h.received)
}
