package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

const (
	rulesFile        = "../../alerts/sockstate.rules.yml"
	alertmanagerFile = "../../alerts/alertmanager.example.yml"

	// shortFor is how long an alert has to be true, and stays true, where the rules say minutes.
	shortFor = "2s"
	// evaluationInterval is that of rules, and for how long alerts are not sent again.
	evaluationInterval = "1s"
	// scrapeInterval is the time-out as well, which a busy machine needs.
	scrapeInterval = "2s"
)

func load(t *testing.T, path string) map[string]any {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := yaml.Unmarshal(data, &doc); err != nil {
		t.Fatalf("parse %s: %v", path, err)
	}
	return doc
}

// write writes a file of the configuration and returns its path.
func write(t *testing.T, dir, name string, doc any) string {
	t.Helper()
	data, err := yaml.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// children are the maps in a list.
func children(parent map[string]any, key string) []map[string]any {
	list, _ := parent[key].([]any)
	var out []map[string]any
	for _, x := range list {
		if m, ok := x.(map[string]any); ok {
			out = append(out, m)
		}
	}
	return out
}

// shortenedRules are the project's rules, with the times that doc.go names.
func shortenedRules(t *testing.T, dir string) string {
	t.Helper()
	doc := load(t, rulesFile)
	for _, group := range children(doc, "groups") {
		group["interval"] = evaluationInterval
		for _, rule := range children(group, "rules") {
			if expr, _ := rule["expr"].(string); rule["record"] == "port_family:sockstate_tcp_sockets:close_wait_min5m" {
				rule["expr"] = strings.ReplaceAll(expr, "[5m]", "[10s]")
			}
			for _, key := range []string{"for", "keep_firing_for"} {
				if _, set := rule[key]; set {
					rule[key] = shortFor
				}
			}
		}
	}
	return write(t, dir, "rules.yml", doc)
}

// webhookConfig is the project's example for Alertmanager, with the test as every receiver,
// and without waiting.
func webhookConfig(t *testing.T, dir string, hook netip.AddrPort) string {
	t.Helper()
	doc := load(t, alertmanagerFile)
	var receivers []any
	for _, r := range children(doc, "receivers") {
		receivers = append(receivers, map[string]any{
			"name":            r["name"],
			"webhook_configs": []any{map[string]any{"url": fmt.Sprintf("http://%v/", hook), "send_resolved": true}},
		})
	}
	if len(receivers) == 0 {
		t.Fatalf("%s has no receivers", alertmanagerFile)
	}
	doc["receivers"] = receivers
	delete(doc, "templates")
	route, _ := doc["route"].(map[string]any)
	if route == nil {
		t.Fatalf("%s has no route", alertmanagerFile)
	}
	sendAtOnce(route)
	return write(t, dir, "alertmanager.yml", doc)
}

func sendAtOnce(route map[string]any) {
	route["group_wait"], route["group_interval"] = "1s", "1s"
	for _, child := range children(route, "routes") {
		sendAtOnce(child)
	}
}

// prometheusConfig scrapes the exporters under the names of their instances, and sends alerts
// to the addresses.
func prometheusConfig(t *testing.T, dir string, targets map[string]netip.AddrPort, alertmanagers ...string) string {
	t.Helper()
	var static []any
	for instance, addr := range targets {
		static = append(static, map[string]any{
			"targets": []string{addr.String()},
			"labels":  map[string]string{"instance": instance},
		})
	}
	return write(t, dir, "prometheus.yml", map[string]any{
		"global": map[string]any{
			"scrape_interval":     scrapeInterval,
			"scrape_timeout":      scrapeInterval,
			"evaluation_interval": evaluationInterval,
		},
		"rule_files": []string{shortenedRules(t, dir)},
		"scrape_configs": []any{
			map[string]any{"job_name": job, "static_configs": static},
		},
		"alerting": map[string]any{"alertmanagers": []any{
			map[string]any{"static_configs": []any{map[string]any{"targets": alertmanagers}}},
		}},
	})
}
