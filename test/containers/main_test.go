package containers

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/mounts"
	"sockstate_exporter/internal/kerneltest/reexec"
	"sockstate_exporter/test/launch"
)

func TestMain(m *testing.M) {
	reexec.Play(map[string]func([]string) error{"node": beNode, "node in the host's pids": beNodeInHostPIDs})
	mounts.PrivateTracefs()
	kerneltest.Main(m)
}

// eventually waits until f returns nil.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// An exporter watches the network namespaces of all processes. Counters of a container must not fall from
// one answer to the next.
type exporter struct {
	*launch.Exporter
	counters map[string]float64 // by series, with the uid of the pod
}

const allNamespaces = "--netns.processes"

// watch starts the exporter on the node. paths are flags that say where names are. All others are empty.
func (n *node) watch(t *testing.T, args ...string) *exporter {
	t.Helper()
	e := &exporter{launch.New(t, n.ns, withoutOthers(args)...), make(map[string]float64)}
	e.Binary = launch.Binary(t) // its memory is measured
	e.Run(t)
	return e
}

// withoutOthers adds flags that switch off the names that this machine has.
func withoutOthers(args []string) []string {
	for _, flag := range []string{"--containers.kubelet=", "--containers.containerd=", "--containers.docker=", "--containers.storage="} {
		if !slices.ContainsFunc(args, func(arg string) bool { return strings.HasPrefix(arg, flag) }) {
			args = append(args, flag)
		}
	}
	return args
}

func (e *exporter) metrics(t *testing.T) launch.Metrics {
	t.Helper()
	m := launch.Metrics(e.Get(t, "/metrics"))
	now := make(map[string]float64)
	for info := range m.Samples("sockstate_netns_info") {
		netns, uid := label(info, "netns"), label(info, "pod_uid")
		for line := range strings.Lines(string(m)) {
			series, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "} ")
			if name, _, _ := strings.Cut(series, "{"); !strings.HasSuffix(name, "_total") || label(line, "netns") != netns {
				continue
			}
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Errorf("%s: %v", line, err)
			}
			series += " of pod " + uid
			if now[series] = n; n < e.counters[series] {
				t.Errorf("%s is %v, it was %v", series, n, e.counters[series])
			}
		}
	}
	e.counters = now
	return m
}

// label is the value of a label of a sample.
func label(sample, name string) string {
	for _, before := range []string{"{", ","} {
		if _, rest, ok := strings.Cut(sample, before+name+`="`); ok {
			value, _, _ := strings.Cut(rest, `"`)
			return value
		}
	}
	return ""
}

// expect waits until /metrics has all these lines.
func (e *exporter) expect(t *testing.T, lines ...string) launch.Metrics {
	t.Helper()
	var m launch.Metrics
	eventually(t, func() error {
		m = e.metrics(t)
		have := strings.Split(string(m), "\n")
		for _, line := range lines {
			if !slices.Contains(have, line) {
				name, _, _ := strings.Cut(line, "{")
				return fmt.Errorf("no line %s\namong\n%s", line, strings.Join(slices.Collect(m.Samples(name)), "\n"))
			}
		}
		return nil
	})
	return m
}

// labels are the different values of a label of all samples.
func labels(m launch.Metrics, name string) []string {
	var all []string
	for line := range strings.Lines(string(m)) {
		if value := label(line, name); value != "" {
			all = append(all, value)
		}
	}
	return slices.Compact(slices.Sorted(slices.Values(all)))
}

// check runs the command check on the node.
func (n *node) check(t *testing.T, args ...string) (code int, text string) {
	t.Helper()
	e := launch.New(t, n.ns)
	e.Cmd.Args = append([]string{"sockstate_exporter", "check"}, withoutOthers(args)...)
	code = e.Wait(t)
	return code, e.Log.String()
}
