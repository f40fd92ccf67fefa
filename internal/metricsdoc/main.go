// Command metricsdoc writes docs/metrics.md, the metrics reference, from the definitions
// that the exporter itself exposes.
package main

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"sockstate_exporter/collector"
)

func main() {
	out := flag.String("o", "", "file to write; empty for standard output")
	flag.Parse()
	if err := write(*out, reference(collector.New(nil, nil, nil).Metrics())); err != nil {
		fmt.Fprintln(os.Stderr, "metricsdoc:", err)
		os.Exit(1)
	}
}

func write(path string, text []byte) error {
	if path == "" {
		_, err := os.Stdout.Write(text)
		return err
	}
	return os.WriteFile(path, text, 0o644) //nolint:gosec // documentation is for everybody
}

const head = `<!-- Generated from the collector package by "make generate"; do not edit. -->

# Metrics

Every metric that sockstate_exporter serves on ` + "`/metrics`" + ` from the sockets of the host. What is not known
is absent, never 0. Units are base units: seconds, bytes, or plain counts.

Labels, where a metric has them:

| label | value |
|---|---|
| ` + "`netns`" + ` | network namespace; empty, so absent, for the exporter's own. Failed calls in those that are not watched are under ` + "`other`" + ` |
| ` + "`port`" + ` | local port, decimal. Of failed calls: the port that was asked for where it is watched, ` + "`0`" + ` for any, and ` + "`other`" + ` |
| ` + "`protocol`" + ` | ` + "`tcp`, `udp`, `mptcp`, `sctp`, `other`" + `. Go programs ask for MPTCP before TCP: a Listen that fails is one failed bind of each |
| ` + "`errno`" + ` | symbolic: ` + "`EADDRINUSE`, `EADDRNOTAVAIL`, `EACCES`" + `; ` + "`other`" + ` for errors that bind() itself never returns |
| ` + "`family`" + ` | ` + "`ipv4` or `ipv6`" + `: address family of the socket. An IPv4 client of a dual-stack ` + "`::`" + ` listener counts under ` + "`ipv6`" + ` |
| ` + "`address`" + ` | local address that the socket is bound to |
| ` + "`interface`" + ` | network device that the socket is bound to (SO_BINDTODEVICE); usually empty |
| ` + "`reuseaddr`" + ` | ` + "`true` or `false`" + `: whether the socket that binds has SO_REUSEADDR |
| ` + "`cause`" + ` | what was in the way of a bind: ` + "`listener`, `connection` (live or closing), `bound` (neither listening nor connected), `time_wait`, `unknown`" + ` |
| ` + "`process`" + ` | what the process, or the thread that failed, called itself: printable, at most 64 characters, and not to be trusted |
| ` + "`unit`" + ` | its systemd unit, or the container that it is in; printable, and bounded |
| ` + "`remote_port`" + ` | port of the peer, decimal |
| ` + "`rank`" + ` | ` + "`1`" + ` for the busiest destination, ` + "`2`" + ` for the next |
| ` + "`collector`" + ` | as in the flag ` + "`--collector.NAME`" + `; ` + "`watch`" + ` and ` + "`netns`" + ` have none |
| ` + "`feature`, `mode`, `reason`" + ` | see [privileges.md](privileges.md) |
| ` + "`state`" + ` | ` + "`established`, `syn_sent`, `syn_recv`, `fin_wait1`, `fin_wait2`, `time_wait`, `close`, `close_wait`, `last_ack`, `listen`, `closing`" + ` |

Besides these it serves client_golang's own ` + "`sockstate_exporter_build_info`, `go_*`, `process_*` and `promhttp_*`" + `.

| metric | type | labels | meaning | source |
|---|---|---|---|---|
`

func reference(metrics []*collector.Metric) []byte {
	var b bytes.Buffer
	b.WriteString(head)
	for _, m := range metrics {
		typ := "gauge"
		if m.Type == prometheus.CounterValue {
			typ = "counter"
		}
		labels := ""
		for _, l := range m.Labels {
			labels += " `" + l + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", m.Name, typ, cmp.Or(strings.TrimSpace(labels), "-"), cell(m.Help), cell(m.Source))
	}
	return b.Bytes()
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
