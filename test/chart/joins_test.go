package chart

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"sockstate_exporter/internal/kerneltest"
)

// A pod, as the exporter on its node and as two replicas of kube-state-metrics know it.
const podSeries = `
sockstate_bind_failing{job="s",instance="node-1",netns="shop/web-1",port="80",family="ipv4"}
sockstate_bind_failing{job="s",instance="node-1",port="22",family="ipv4"}
sockstate_tcp_sockets{job="s",instance="node-1",netns="shop/web-1",port="80",family="ipv4",state="time_wait"}
sockstate_tcp_listener_info{job="s",instance="node-1",netns="shop/web-1",port="80",address="0.0.0.0",family="ipv4",container="nginx"}
sockstate_netns_info{job="s",instance="node-1",netns="shop/web-1",namespace="shop",pod="web-1",pod_uid="u",runtime="containerd"}
kube_pod_info{job="kube-state-metrics",instance="a",namespace="shop",pod="web-1",created_by_kind="ReplicaSet",created_by_name="web"}
kube_pod_info{job="kube-state-metrics",instance="b",namespace="shop",pod="web-1",created_by_kind="ReplicaSet",created_by_name="web"}
kube_pod_info{job="kube-state-metrics",instance="b",namespace="shop",pod="web-2",created_by_kind="ReplicaSet",created_by_name="old"}
kube_pod_container_info{job="kube-state-metrics",instance="a",namespace="shop",pod="web-1",container="nginx",image="nginx:1"}
kube_pod_container_info{job="kube-state-metrics",instance="a",namespace="shop",pod="web-1",container="log",image="log:1"}
`

func TestJoinsOfTheDocumentationFindThePod(t *testing.T) {
	promtool := kerneltest.RequireCommand(t, "promtool")
	const labels = `{job="s",instance="node-1",netns="shop/web-1",namespace="shop",pod="web-1",port="80",family="ipv4",`
	want := []string{
		labels + `created_by_kind="ReplicaSet",created_by_name="web"}`,
		`{namespace="shop"}`,
		labels + `address="0.0.0.0",container="nginx",image="nginx:1"}`,
	}
	blocks := strings.Split(read(t, "../../deploy/README.md"), "```promql\n")[1:]
	if len(blocks) != len(want) {
		t.Fatalf("%d joins, want %d", len(blocks), len(want))
	}
	var series, tests []map[string]any
	for _, s := range strings.Split(strings.TrimSpace(podSeries), "\n") {
		series = append(series, map[string]any{"series": s, "values": "1 1"})
	}
	for i, block := range blocks {
		expr, _, _ := strings.Cut(block, "```")
		tests = append(tests, map[string]any{"expr": expr, "eval_time": "1m", "exp_samples": []any{map[string]any{"labels": want[i], "value": 1}}})
	}
	file, err := yaml.Marshal(map[string]any{"tests": []any{map[string]any{"interval": "1m", "input_series": series, "promql_expr_test": tests}}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "joins.yml")
	write(t, path, string(file))
	if out, err := exec.CommandContext(t.Context(), promtool, "test", "rules", path).CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}
