package collector

import (
	"bytes"
	"maps"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/failures"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/watch"
)

// bindText is the exposition of a host where ports 80 and 4840 are watched and these binds failed.
func bindText(t *testing.T, binds failures.Binds) []byte {
	t.Helper()
	s := wholeSnapshot(t)
	s.Binds.Data = binds
	c, _ := collectorOf(s)
	return exposition(t, c)
}

// zeroBinds are the series that are there before anything failed.
func zeroBinds() map[string]string {
	binds := make(map[string]string)
	for _, family := range []string{"ipv4", "ipv6"} {
		binds[`errno="EADDRINUSE",family="`+family+`",port="53",protocol="udp"`] = "0"
		for _, port := range []string{"80", "4840"} {
			binds[`errno="EADDRINUSE",family="`+family+`",port="`+port+`",protocol="tcp"`] = "0"
		}
	}
	return binds
}

func TestWatchedPortsHaveZerosBeforeTheFirstFailure(t *testing.T) {
	text := bindText(t, failures.Binds{})
	if got, want := values(text, "sockstate_bind_failures_total"), zeroBinds(); !maps.Equal(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
	for _, metric := range []string{"sockstate_listen_failures_total", conflictsTotal, "sockstate_bind_last_failure_timestamp_seconds"} {
		if got := values(text, metric); len(got) != 0 {
			t.Errorf("%s has %v, want no series before the first failure", metric, got)
		}
	}
}

func TestNoPortWatchedIsNoZero(t *testing.T) {
	s := wholeSnapshot(t)
	s.Watch.Data, s.UDP.Data.Watch = watch.Set{Limit: 1}, watch.Set{}
	s.Binds.Data.Counts = nil
	c, _ := collectorOf(s)
	if got := values(exposition(t, c), "sockstate_bind_failures_total"); len(got) != 0 {
		t.Errorf("got %v, want nothing", got)
	}
}

// Each case is what is there besides the zeros, or in their place.
func TestBindFailuresBySeries(t *testing.T) {
	web := count(80, sock.FamilyIPv4, sock.TCP, unix.EADDRINUSE, 3)
	for _, tt := range []struct {
		name    string
		counts  []bindtrace.Count
		binds   map[string]string
		listens map[string]string
	}{
		{"one", []bindtrace.Count{web},
			map[string]string{`errno="EADDRINUSE",family="ipv4",port="80",protocol="tcp"`: "3"}, nil},
		{"families, protocols and errors apart",
			[]bindtrace.Count{
				web,
				count(80, sock.FamilyIPv6, sock.TCP, unix.EADDRINUSE, 4),
				count(80, sock.FamilyIPv4, sock.UDP, unix.EADDRINUSE, 5),
				count(80, sock.FamilyIPv4, sock.MPTCP, unix.EADDRINUSE, 6),
				count(80, sock.FamilyIPv4, sock.SCTP, unix.EADDRINUSE, 7),
				count(80, sock.FamilyIPv4, sock.OtherProtocol, unix.EADDRINUSE, 8),
				count(80, sock.FamilyIPv4, sock.TCP, unix.EINVAL, 9),
			},
			map[string]string{
				`errno="EADDRINUSE",family="ipv4",port="80",protocol="tcp"`:   "3",
				`errno="EADDRINUSE",family="ipv6",port="80",protocol="tcp"`:   "4",
				`errno="EADDRINUSE",family="ipv4",port="80",protocol="udp"`:   "5",
				`errno="EADDRINUSE",family="ipv4",port="80",protocol="mptcp"`: "6",
				`errno="EADDRINUSE",family="ipv4",port="80",protocol="sctp"`:  "7",
				`errno="EADDRINUSE",family="ipv4",port="80",protocol="other"`: "8",
				`errno="EINVAL",family="ipv4",port="80",protocol="tcp"`:       "9",
			}, nil},
		{"port 0 and others",
			[]bindtrace.Count{changed(web, func(k *bindtrace.Key) { k.Port = 0 }), changed(web, otherPort)},
			map[string]string{
				`errno="EADDRINUSE",family="ipv4",port="0",protocol="tcp"`:     "3",
				`errno="EADDRINUSE",family="ipv4",port="other",protocol="tcp"`: "3",
			}, nil},
		{"a port that is not watched any more",
			[]bindtrace.Count{changed(web, func(k *bindtrace.Key) { k.Port = 8080 })},
			map[string]string{`errno="EADDRINUSE",family="ipv4",port="8080",protocol="tcp"`: "3"}, nil},
		{"other namespaces together",
			[]bindtrace.Count{changed(web, elsewhere), changed(web, func(k *bindtrace.Key) { k.Netns = ownNetns + 1 })},
			map[string]string{`errno="EADDRINUSE",family="ipv4",netns="other",port="80",protocol="tcp"`: "6"}, nil},
		{"errors that are not told apart",
			[]bindtrace.Count{changed(web, func(k *bindtrace.Key) { k.Errno = 0 })},
			map[string]string{`errno="other",family="ipv4",port="80",protocol="tcp"`: "3"}, nil},
		{"listen",
			[]bindtrace.Count{changed(web, byListen), changed(changed(web, byListen), elsewhere)},
			nil,
			map[string]string{
				`errno="EADDRINUSE",family="ipv4",port="80",protocol="tcp"`:               "3",
				`errno="EADDRINUSE",family="ipv4",netns="other",port="80",protocol="tcp"`: "3",
			}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := bindText(t, failures.Binds{Counts: tt.counts})
			binds, listens := zeroBinds(), maps.Clone(tt.listens)
			maps.Copy(binds, tt.binds)
			if got := values(text, "sockstate_bind_failures_total"); !maps.Equal(got, binds) {
				t.Errorf("bind: got %v\nwant %v", got, binds)
			}
			if got := values(text, "sockstate_listen_failures_total"); !maps.Equal(got, listens) {
				t.Errorf("listen: got %v\nwant %v", got, listens)
			}
		})
	}
}

// The order does not change from one scrape to the next.
func TestBindSeriesKeepTheirOrder(t *testing.T) {
	c, _ := collectorOf(wholeSnapshot(t))
	var first bytes.Buffer
	if err := rendered(t, c).Write(&first); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		var again bytes.Buffer
		if err := rendered(t, c).Write(&again); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(first.String(), again.String()); diff != "" {
			t.Fatalf("another order (-first +again):\n%s", diff)
		}
	}
}

func TestShortcomingsOfTheTracer(t *testing.T) {
	text := bindText(t, failures.Binds{Stats: bindtrace.Stats{Lost: 1, Unattributed: 1 << 33, Missed: 3}})
	for metric, want := range map[string]string{
		"sockstate_bind_events_lost_total":           "1",
		"sockstate_bind_failures_unattributed_total": "8.589934592e+09",
		"sockstate_bind_tracer_missed_runs_total":    "3",
	} {
		if got := values(text, metric); !maps.Equal(got, map[string]string{"": want}) {
			t.Errorf("%s is %v, want %s", metric, got, want)
		}
	}
}

// Threads call themselves what they like (prctl PR_SET_NAME), 15 bytes of it.
func TestHostileProcessNames(t *testing.T) {
	at := time.UnixMilli(1_700_000_000_500)
	names := map[string]string{
		"":                        "",
		"nginx: worker":           "nginx: worker",
		"a\nb\x00c":               "a\uFFFDb\uFFFDc",
		"\xff\xfe":                "\uFFFD\uFFFD",
		"\xfe\xff":                "\uFFFD\uFFFD", // looks the same, on another port
		`"} 1`:                    `\"} 1`,
		`back\slash`:              `back\\slash`,
		"\u202egnirts":            "\uFFFDgnirts",
		"\x1b[31mred\x1b[0m":      "\uFFFD[31mred\uFFFD[0m",
		strings.Repeat("é", 5000): strings.Repeat("é", 64),
	}
	binds := failures.Binds{}
	want := make(map[string]string)
	port := uint16(1000)
	for name, label := range names {
		port++
		binds.Latest = append(binds.Latest, failures.Failure{
			Key:  failures.Key{Netns: ownNetns, Port: port, Family: sock.FamilyIPv4, Protocol: sock.TCP},
			Time: at, Errno: unix.EACCES, Process: name,
		})
		process := `process="` + label + `",`
		if label == "" {
			process = ""
		}
		want[`errno="EACCES",family="ipv4",port="`+strconv.Itoa(int(port))+`",`+process+`protocol="tcp",reuseaddr="false"`] = "1.7000000005e+09"
	}
	text := bindText(t, binds)
	if !utf8.Valid(text) {
		t.Error("the exposition is not valid UTF-8")
	}
	if got := values(text, "sockstate_bind_last_failure_timestamp_seconds"); !maps.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// Every key of the latest failures makes a sample of its own, whatever the processes are called.
func TestLatestFailuresAreNeverTheSameSeries(t *testing.T) {
	var binds failures.Binds
	for _, netns := range []uint32{0, ownNetns} {
		for _, port := range []failures.Key{{Port: 0}, {Port: 80}, {OtherPort: true}} {
			for _, family := range []sock.Family{sock.FamilyIPv4, sock.FamilyIPv6} {
				for _, protocol := range []sock.Protocol{sock.TCP, sock.UDP, sock.OtherProtocol} {
					key := port
					key.Netns, key.Family, key.Protocol = netns, family, protocol
					binds.Latest = append(binds.Latest, failures.Failure{Key: key, Errno: unix.EACCES, Process: "\xff"})
				}
			}
		}
	}
	got := values(bindText(t, binds), "sockstate_bind_last_failure_timestamp_seconds") // pedantic about duplicates
	if len(got) != len(binds.Latest) {
		t.Errorf("%d samples, want %d", len(got), len(binds.Latest))
	}
}

func TestErrnoLabel(t *testing.T) {
	for errno, want := range map[unix.Errno]string{
		unix.EADDRINUSE: "EADDRINUSE",
		unix.EACCES:     "EACCES",
		0:               "other",
		512:             "other", // ERESTARTSYS, and whatever a cgroup program makes up
		4095:            "other",
	} {
		if got := errnoLabel(errno); got != want {
			t.Errorf("label of %d is %q, want %q", int(errno), got, want)
		}
	}
}
