package history

import (
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	textType = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores"
	openType = "application/openmetrics-text; version=1.0.0; charset=utf-8"
)

// The head of each made-up answer.
const head = `# HELP sockstate_watched_port_info Ports.
# TYPE sockstate_watched_port_info gauge
sockstate_watched_port_info{port="80"} 1
`

const (
	drops = "# HELP sockstate_udp_drops_total Drops.\n# TYPE sockstate_udp_drops_total counter\n"
	binds = "# HELP sockstate_bind_failures_total Binds.\n# TYPE sockstate_bind_failures_total counter\n"
	gauge = "# TYPE sockstate_udp_sockets gauge\n"
)

// An answer is a made-up one, so long after the one before.
type answer struct {
	after time.Duration
	text  string
	open  bool // OpenMetrics
}

func scrape(text string) answer { return answer{time.Second, head + text, false} }

func later(after time.Duration, text string) answer { return answer{after, head + text, false} }

func open(text string) answer {
	text = strings.NewReplacer("_total Drops", " Drops", "_total counter", " counter").Replace(head + text)
	return answer{time.Second, text + "# EOF\n", true}
}

// notWatching is an answer of an exporter that does not watch the port.
func notWatching(text string) answer { return answer{time.Second, text, false} }

func TestHistoryFindsWhatIsWrong(t *testing.T) {
	port80, port81 := drops+"sockstate_udp_drops_total{port=\"80\"} ", drops+"sockstate_udp_drops_total{port=\"81\"} "
	const fell = `{__name__="sockstate_udp_drops_total", port="80"} is 4, it was 5`
	for _, tt := range []struct {
		name    string
		answers []answer
		want    []string // of the last answer; each is part of a problem
	}{
		{"a counter rises", []answer{scrape(port80 + "5\n"), scrape(port80 + "5\n"), scrape(port80 + "6\n")}, nil},
		{"a counter falls", []answer{scrape(port80 + "5\n"), scrape(port80 + "4\n")}, []string{fell}},
		{"a counter falls in OpenMetrics", []answer{scrape(port80 + "5\n"), open(port80 + "4\n")}, []string{fell}},
		{"a counter falls after OpenMetrics", []answer{open(port80 + "5\n"), scrape(port80 + "4\n")}, []string{fell}},
		{"a gauge falls", []answer{
			scrape(gauge + "sockstate_udp_sockets 5\n"), scrape(gauge + "sockstate_udp_sockets 4\n"),
		}, nil},
		{"the count of a summary falls", []answer{
			scrape("# TYPE s summary\ns{quantile=\"0.5\"} 1\ns_sum 3\ns_count 5\n"),
			scrape("# TYPE s summary\ns{quantile=\"0.5\"} 0.5\ns_sum 3\ns_count 4\n"),
		}, []string{`{__name__="s_count"} is 4, it was 5`}},
		{"the bucket of a histogram falls", []answer{
			scrape("# TYPE s histogram\ns_bucket{le=\"1\"} 2\ns_bucket{le=\"+Inf\"} 5\ns_sum 3\ns_count 5\n"),
			scrape("# TYPE s histogram\ns_bucket{le=\"1\"} 1\ns_bucket{le=\"+Inf\"} 5\ns_sum 3\ns_count 5\n"),
		}, []string{`is 1, it was 2`}},
		{"a gauge whose name ends with _count falls", []answer{
			scrape("# TYPE s_count gauge\ns_count 5\n"), scrape("# TYPE s_count gauge\ns_count 4\n"),
		}, nil},
		{"something without a type that ends with _total falls", []answer{scrape("s_total 5\n"), scrape("s_total 4\n")},
			[]string{`is 4, it was 5`}},
		{"a counter is back as it was", []answer{scrape(port80 + "5\n"), scrape(""), scrape(port80 + "5\n")}, nil},
		{"a counter is back and lower", []answer{scrape(port80 + "5\n"), scrape(""), scrape(""), scrape(port80 + "4\n")},
			[]string{fell + " before it was away for 2 scrapes"}},
		{"a counter is back and lower after 4 minutes", []answer{scrape(port80 + "5\n"), later(4*time.Minute, ""), scrape(port80 + "4\n")},
			[]string{fell}},
		{"a counter is back and lower after 6 minutes", []answer{scrape(port80 + "5\n"), later(6*time.Minute, ""), scrape(port80 + "4\n")}, nil},
		{"nothing listened on an address for too long", []answer{
			scrape("l_total{address=\"::1\",port=\"80\"} 5\n"), later(11*time.Second, ""), scrape("l_total{address=\"::1\",port=\"80\"} 1\n"),
		}, nil},
		{"an answer is late", []answer{
			scrape("l_total{address=\"::1\",port=\"80\"} 5\n"), later(11*time.Second, "l_total{address=\"::1\",port=\"80\"} 1\n"),
		}, []string{"is 1, it was 5"}},
		{"nothing listened on an address for a while", []answer{
			scrape("l_total{address=\"::1\",port=\"80\"} 5\n"), later(8*time.Second, ""), scrape("l_total{address=\"::1\",port=\"80\"} 1\n"),
		}, []string{"is 1, it was 5"}},
		{"a port was not watched meanwhile", []answer{scrape(port80 + "5\n"), notWatching(""), scrape(port80 + "0\n")}, nil},
		{"a port was not watched, and its counter never went", []answer{scrape(port80 + "5\n"), notWatching(port80 + "5\n"), scrape(port80 + "0\n")},
			[]string{`is 0, it was 5`}},
		{"a network namespace was gone meanwhile", []answer{
			scrape("n_total{netns=\"blue\"} 5\n"), scrape(""), scrape("n_total{netns=\"blue\"} 1\n"),
		}, nil},
		{"a network namespace was gone, and its failed calls not yet", []answer{
			scrape("n_total{netns=\"blue\"} 5\nsockstate_netns_a{netns=\"blue\"} 1\n"), scrape("n_total{netns=\"blue\"} 5\n"),
			scrape("n_total{netns=\"blue\"} 1\nsockstate_netns_a{netns=\"blue\"} 1\n"),
		}, nil},
		{"a part of a network namespace was gone meanwhile", []answer{
			scrape("n_total{netns=\"blue\"} 5\nsockstate_netns_a{netns=\"blue\"} 1\n"), scrape("sockstate_netns_a{netns=\"blue\"} 1\n"), scrape("n_total{netns=\"blue\"} 1\n"),
		}, []string{`is 1, it was 5 before it was away for 1 scrapes`}},
		{"another's network namespace", []answer{
			scrape("n_total{netns=\"foreign\"} 5\nsockstate_netns_a{netns=\"foreign\"} 1\n"), scrape("n_total{netns=\"foreign\"} 4\n"),
		}, nil},
		{"an unwatched network namespace has the ports of all", []answer{
			scrape(binds + "sockstate_bind_failures_total{netns=\"other\",port=\"80\"} 0\n"),
			scrape(binds + "sockstate_bind_failures_total{netns=\"other\",port=\"80\"} 5\n"), scrape(""),
			scrape(binds + "sockstate_bind_failures_total{netns=\"other\",port=\"80\"} 4\n"),
		}, []string{`is 4, it was 5 before`, `is 4 in all ports and network namespaces, it was 5`}},
		{"a count moves to the other ports", []answer{
			scrape(binds + "sockstate_bind_failures_total{port=\"80\"} 5\nsockstate_bind_failures_total{port=\"other\"} 2\n"),
			notWatching(binds + "sockstate_bind_failures_total{port=\"other\"} 7\n"),
			scrape(binds + "sockstate_bind_failures_total{port=\"80\"} 0\nsockstate_bind_failures_total{port=\"other\"} 7\n"),
		}, nil},
		{"a count moves to the number of its port and back, and the other ports stand still", []answer{
			scrape(binds + "sockstate_bind_failures_total{port=\"other\"} 9\n"),
			scrape(binds + "sockstate_bind_failures_total{port=\"80\"} 5\nsockstate_bind_failures_total{port=\"other\"} 9\n"),
			notWatching(binds + "sockstate_bind_failures_total{port=\"other\"} 9\n"),
		}, nil},
		{"more of a count is lost than came twice", []answer{
			scrape(binds + "sockstate_bind_failures_total{port=\"other\"} 9\n"),
			scrape(binds + "sockstate_bind_failures_total{port=\"80\"} 5\nsockstate_bind_failures_total{port=\"other\"} 9\n"),
			scrape(binds + "sockstate_bind_failures_total{port=\"80\"} 6\nsockstate_bind_failures_total{port=\"other\"} 9\n"),
			notWatching(binds + "sockstate_bind_failures_total{port=\"other\"} 9\n"),
		}, []string{`is 9 in all ports and network namespaces, it was 15, of which 5 may`}},
		{"a count is lost", []answer{
			scrape(binds + "sockstate_bind_failures_total{port=\"80\"} 0\nsockstate_bind_failures_total{port=\"other\"} 2\n"),
			scrape(binds + "sockstate_bind_failures_total{port=\"80\"} 5\nsockstate_bind_failures_total{port=\"other\"} 2\n"),
			notWatching(binds + "sockstate_bind_failures_total{port=\"other\"} 6\n"),
		}, []string{`{__name__="sockstate_bind_failures_total"} is 6 in all ports and network namespaces, it was 7`}},
		{"a series is there twice", []answer{scrape(port80 + "5\nsockstate_udp_drops_total{port=\"80\"} 5\n")},
			[]string{`{__name__="sockstate_udp_drops_total", port="80"} is there twice`}},
		{"a series is there twice, with its labels in another order", []answer{
			scrape(drops + "sockstate_udp_drops_total{a=\"1\",b=\"2\"} 5\nsockstate_udp_drops_total{b=\"2\",a=\"1\"} 5\n"),
		}, []string{`is there twice`}},
		{"two series", []answer{scrape(port80 + "5\n" + strings.TrimPrefix(port81, drops) + "5\n")}, nil},
		{"HELP changes", []answer{scrape(port80 + "5\n"), scrape(strings.Replace(port80, "Drops.", "Dropped.", 1) + "5\n")},
			[]string{`sockstate_udp_drops_total is the counter "Dropped.", it was the counter "Drops."`}},
		{"TYPE changes", []answer{scrape(port80 + "5\n"), scrape(strings.Replace(port80, " counter", " gauge", 1) + "5\n")},
			[]string{`sockstate_udp_drops_total is the gauge "Drops.", it was the counter "Drops."`}},
		{"not valid", []answer{scrape("a{b=\"c} 1\n")}, []string{"parse text"}},
		{"OpenMetrics without its end", []answer{{time.Second, head, true}}, []string{"parse application/openmetrics-text"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h, at := New(Config{
				Watches:   func(netns string) bool { return netns != "foreign" },
				Retention: 10 * time.Second,
			}), time.Unix(0, 0)
			var got []string
			for i, a := range tt.answers {
				contentType := textType
				if a.open {
					contentType = openType
				}
				at = at.Add(a.after)
				got = h.Add(at, contentType, []byte(a.text))
				if i < len(tt.answers)-1 && len(got) > 0 {
					t.Errorf("answer %d: %q, want nothing wrong", i, got)
				}
			}
			if !slices.EqualFunc(got, tt.want, strings.Contains) {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}
