package launch

import (
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Metrics is what an exporter serves on /metrics.
type Metrics string

// Samples are the lines of a metric that have all the labels. As in PromQL, netns="" selects those
// without the label.
func (m Metrics) Samples(metric string, labels ...string) iter.Seq[string] {
	return func(yield func(string) bool) {
	lines:
		for line := range strings.Lines(string(m)) {
			rest, ok := strings.CutPrefix(line, metric)
			if !ok || rest[0] != '{' && rest[0] != ' ' {
				continue
			}
			for _, label := range labels {
				if name, missing := strings.CutSuffix(label, `=""`); missing && hasLabel(rest, name) || !missing && !strings.Contains(rest, label) {
					continue lines
				}
			}
			if !yield(strings.TrimSuffix(line, "\n")) {
				return
			}
		}
	}
}

func hasLabel(labels, name string) bool {
	return strings.Contains(labels, "{"+name+"=") || strings.Contains(labels, ","+name+"=")
}

// Sum adds up the samples of a metric that have all the labels. There must be one.
func (m Metrics) Sum(metric string, labels ...string) (float64, error) {
	sum, found := 0.0, false
	for line := range m.Samples(metric, labels...) {
		v, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", line, err)
		}
		sum, found = sum+v, true
	}
	if !found {
		return 0, fmt.Errorf("no %s with %q", metric, labels)
	}
	return sum, nil
}

// Series counts the samples of all metrics whose names begin with a prefix.
func (m Metrics) Series(prefix string) (n int) {
	for line := range strings.Lines(string(m)) {
		if strings.HasPrefix(line, prefix) && !strings.HasPrefix(line, "#") {
			n++
		}
	}
	return n
}

// ProcStatus is a number of /proc/PID/status, in the unit that it has there.
func (e *Exporter) ProcStatus(t testing.TB, name string) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", e.Cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == name+":" {
			n, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no %s in\n%s", name, text)
	return 0
}

// Descriptors is how many descriptors the process has open, without those by which it waits for events of failed
// binds: it has them for a minute after such an event, whoever on the host failed.
func (e *Exporter) Descriptors(t testing.TB) int {
	t.Helper()
	folder := fmt.Sprintf("/proc/%d/fd", e.Cmd.Process.Pid)
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, entry := range entries {
		switch link, _ := os.Readlink(filepath.Join(folder, entry.Name())); link {
		case "anon_inode:[eventpoll]", "anon_inode:[eventfd]":
		default:
			n++
		}
	}
	return n
}
