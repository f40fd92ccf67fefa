package deploy

import (
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
)

// deadline is for what takes seconds on a busy machine.
const deadline = 2 * time.Minute

// An exporter is a running one, seen from inside its network namespace.
type exporter struct {
	client *http.Client
	log    *kerneltest.Log
}

const address = "127.0.0.1:10048"

// start starts what is to be the exporter, and waits until it is ready.
func start(t *testing.T, ns *kerneltest.NetNS, cmd *kerneltest.Cmd) *exporter {
	t.Helper()
	return startUntil(t, ns, cmd, "/-/ready")
}

// startUntil starts what is to be the exporter, and waits until it has the page.
func startUntil(t *testing.T, ns *kerneltest.NetNS, cmd *kerneltest.Cmd, page string) *exporter {
	t.Helper()
	e := &exporter{
		log:    new(kerneltest.Log),
		client: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DialContext: ns.DialContext}},
	}
	t.Cleanup(e.client.CloseIdleConnections)
	cmd.Stdout, cmd.Stderr = e.log, e.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for until := time.Now().Add(deadline); ; time.Sleep(10 * time.Millisecond) {
		status, _, err := e.tryGet(page)
		if err == nil && status == http.StatusOK {
			return e
		}
		// WNOWAIT: the test's clean-up waits for it.
		var info unix.Siginfo
		if err := unix.Waitid(unix.P_PID, cmd.Process.Pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil); err != nil || info.Signo != 0 {
			_ = cmd.Wait()
			t.Fatalf("ended: %v, %v\n%s", cmd.ProcessState, err, e.log)
		}
		if time.Now().After(until) {
			t.Fatalf("not ready: status %d, %v\n%s", status, err, e.log)
		}
	}
}

func (e *exporter) tryGet(path string) (int, string, error) {
	resp, err := e.client.Get("http://" + address + path)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

func (e *exporter) metrics(t *testing.T) string {
	t.Helper()
	status, body, err := e.tryGet("/metrics")
	if err != nil || status != http.StatusOK {
		t.Fatalf("scrape: status %d, %v\n%s%s", status, err, body, e.log)
	}
	return body
}

// features are the rows of sockstate_feature_available by feature: "1", or why not.
func (e *exporter) features(t *testing.T) map[string]string {
	t.Helper()
	rows := regexp.MustCompile(`(?m)^sockstate_feature_available\{feature="(\w+)",mode="(\w*)",reason="(\w*)"\} ([01])$`).
		FindAllStringSubmatch(e.metrics(t), -1)
	out := make(map[string]string)
	for _, row := range rows {
		out[row[1]] = strings.Join(strings.Fields(row[2]+" "+row[3]+" "+row[4]), " ")
	}
	return out
}

// checkWorks fails unless every collector succeeds.
func (e *exporter) checkWorks(t *testing.T) {
	t.Helper()
	metrics := e.metrics(t)
	if n := strings.Count(metrics, "\nsockstate_scrape_collector_success{"); n == 0 {
		t.Errorf("no collectors:\n%s", metrics)
	}
	if failed := regexp.MustCompile(`sockstate_scrape_collector_success\{[^}]*\} 0`).FindAllString(metrics, -1); failed != nil {
		t.Errorf("failing: %v\n%s", failed, e.log)
	}
}
