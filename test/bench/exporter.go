package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"sockstate_exporter/internal/kerneltest"
)

// The port each exporter serves on, and the metrics by which its count is checked.
const (
	portNodeExporter = 9100
	portTCPOnly      = 10048
	portTCPAndReuse  = 10047
	portEverything   = 10049
	portFirstOfPorts = 10050 // of several, one after the other
)

// An exporter is a child process that is scraped.
type exporter struct {
	cmd    *kerneltest.Cmd
	url    string
	client *http.Client
	body   bytes.Buffer // of the latest scrape
	allocs []memStats   // by scrape
}

// memStats are counters of the exporter's own Go heap.
type memStats struct{ bytes, mallocs float64 }

// startExporter starts an exporter inside the namespace and waits until it serves.
func startExporter(ctx context.Context, ns *kerneltest.NetNS, path string, port int, args ...string) (*exporter, error) {
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	e := &exporter{
		cmd:    ns.CommandContext(ctx, path, append(args, "--log.level=error", "--web.listen-address="+addr)...),
		url:    "http://" + addr + "/metrics",
		client: &http.Client{Transport: &http.Transport{DialContext: ns.DialContext}},
	}
	e.cmd.Stderr = os.Stderr
	if err := e.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	ready, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		err := e.scrape(ready)
		if err == nil {
			return e, nil
		}
		if sleep(ready, 20*time.Millisecond) != nil {
			e.close()
			return nil, fmt.Errorf("wait for %s %q to serve: %w", path, args, err)
		}
	}
}

func (e *exporter) close() {
	e.client.CloseIdleConnections()
	e.cmd.Kill()
}

// scrape does what Prometheus does: a connection that is kept, gzip, all of the body.
func (e *exporter) scrape(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.url, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := e.client.Do(req)
	if err != nil {
		return err
	}
	e.body.Reset()
	_, err = e.body.ReadFrom(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return fmt.Errorf("scrape %s: %w", e.url, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("scrape %s: %s: %.200s", e.url, resp.Status, e.body.Bytes())
	}
	return nil
}

// contender scrapes e; metric{state="time_wait"} must sum up to want.
func (e *exporter) contender(name, metric string, want, slack int) contender {
	return contender{
		name: name,
		run:  e.scrape,
		check: func() error {
			bytes, err := e.sample("go_memstats_alloc_bytes_total", "")
			if err != nil {
				return err
			}
			mallocs, err := e.sample("go_memstats_mallocs_total", "")
			if err != nil {
				return err
			}
			e.allocs = append(e.allocs, memStats{bytes, mallocs})
			timeWait, err := e.sample(metric, `state="time_wait"`)
			if err != nil {
				return err
			}
			got := int(timeWait)
			return saw(&got, want, slack)()
		},
		cpu:   func() (time.Duration, error) { return processCPU(e.cmd.Process.Pid) },
		close: e.close,
	}
}

// perScrape is what one scrape allocates, on average, the first ones left out.
func (e *exporter) perScrape() memStats {
	const warmUp = 1
	n := len(e.allocs) - 1 - warmUp
	if n < 1 {
		return memStats{}
	}
	first, last := e.allocs[warmUp], e.allocs[len(e.allocs)-1]
	return memStats{(last.bytes - first.bytes) / float64(n), (last.mallocs - first.mallocs) / float64(n)}
}

// sample sums the samples of a metric whose labels contain label.
func (e *exporter) sample(metric, label string) (float64, error) {
	sum, found := 0.0, false
	for line := range bytes.Lines(e.body.Bytes()) {
		rest, ok := strings.CutPrefix(string(line), metric)
		if !ok || rest == "" || rest[0] != '{' && rest[0] != ' ' {
			continue
		}
		space := strings.LastIndexByte(rest, ' ') // label values may hold others
		if !strings.Contains(rest[:space], label) {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(rest[space:]), 64)
		if err != nil {
			return 0, fmt.Errorf("scrape %s: %s: %w", e.url, metric, err)
		}
		sum, found = sum+v, true
	}
	if !found {
		return 0, fmt.Errorf("scrape %s: no %s with %s", e.url, metric, label)
	}
	return sum, nil
}

// peakRSS is VmHWM, in bytes.
func (e *exporter) peakRSS() (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", e.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmHWM:" && f[2] == "kB" {
			kib, err := strconv.ParseFloat(f[1], 64)
			return kib * 1024, err
		}
	}
	return 0, fmt.Errorf("no VmHWM in /proc/%d/status", e.cmd.Process.Pid)
}

// onlyTCP are the flags of an exporter that collects sockets by state, and with them what
// else is asked for.
func onlyTCP(and ...string) []string {
	var args []string
	for _, c := range []string{"listener", "reuse", "restart", "bind", "connect", "udp", "remote", "ephemeral", "owner", "stack"} {
		if !slices.Contains(and, c) {
			args = append(args, "--no-collector."+c)
		}
	}
	return args
}
