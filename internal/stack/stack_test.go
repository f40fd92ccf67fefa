package stack

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sockstate_exporter/internal/sock"
)

// proc makes a procfs of testdata/linux-6.18, taken from a namespace with 3
// IPv4 and 4 IPv6 TIME_WAIT sockets and one listener each, with ListenOverflows,
// ListenDrops and TCPTimeWaitOverflow set to 11, 12, 13. Files in replaced
// have other contents, or are missing where that is "absent".
func proc(t *testing.T, replaced map[string]string) string {
	t.Helper()
	root := t.TempDir()
	thread := filepath.Join(root, "100/task/101")
	for from, to := range map[string]string{"net": filepath.Join(thread, "net"), "sys": filepath.Join(root, "sys")} {
		if err := os.CopyFS(to, os.DirFS(filepath.Join("testdata/linux-6.18", from))); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("100/task/101", filepath.Join(root, "thread-self")); err != nil {
		t.Fatal(err)
	}
	for name, content := range replaced {
		path := filepath.Join(root, name)
		if strings.HasPrefix(name, "net/") {
			path = filepath.Join(thread, name)
		}
		if content == absent {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

const absent = "absent"

// fixture has the values of testdata/linux-6.18.
func fixture() Stats {
	return Stats{
		Sockets:           known(8),
		LocalPorts:        sock.PortRange{First: 32768, Last: 60999},
		TimeWait:          known(7),
		TimeWaitLimit:     known(131072),
		TimeWaitOverflows: known(13),
		ListenOverflows:   known(11),
		ListenDrops:       known(12),
		EphemeralPorts:    known(60999 - 32768 + 1 - 101),
		Memory:            known(372 * uint64(os.Getpagesize())),
		MemoryPressure:    known(383868 * uint64(os.Getpagesize())),
		MemoryLimit:       known(575802 * uint64(os.Getpagesize())),
		Orphans:           known(0),
		OrphansLimit:      known(131072),
	}
}

func read(t *testing.T, root string) (Stats, error) {
	t.Helper()
	r, err := NewReader(root)
	if err != nil {
		t.Fatal(err)
	}
	return r.Read()
}

func TestRead(t *testing.T) {
	got, err := read(t, proc(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	if got != fixture() {
		t.Errorf("got %+v, want %+v", got, fixture())
	}
}

func TestReadOfHostilePart(t *testing.T) {
	const (
		ports    = "sys/net/ipv4/ip_local_port_range"
		reserved = "sys/net/ipv4/ip_local_reserved_ports"
		limit    = "sys/net/ipv4/tcp_max_tw_buckets"
		memory   = "sys/net/ipv4/tcp_mem"
		orphans  = "sys/net/ipv4/tcp_max_orphans"
	)
	noSockstat := func(s *Stats) { s.Sockets, s.TimeWait, s.Memory, s.Orphans = Value{}, Value{}, Value{}, Value{} }
	noMemoryLimit := func(s *Stats) { s.MemoryPressure, s.MemoryLimit = Value{}, Value{} }
	noOrphansLimit := func(s *Stats) { s.OrphansLimit = Value{} }
	noNetstat := func(s *Stats) { s.TimeWaitOverflows, s.ListenOverflows, s.ListenDrops = Value{}, Value{}, Value{} }
	noReserved := func(s *Stats) { s.EphemeralPorts = Value{} }
	noPorts := func(s *Stats) { s.LocalPorts, s.EphemeralPorts = sock.PortRange{}, Value{} }
	noLimit := func(s *Stats) { s.TimeWaitLimit = Value{} }

	tests := []struct {
		name          string
		file, content string
		lost          func(*Stats) // clears the values that it costs
		want          []string     // lines of the error; ROOT for the procfs
	}{
		{"sockstat missing", "net/sockstat", absent, noSockstat,
			[]string{"read net/sockstat: open ROOT/thread-self/net/sockstat: no such file or directory"}},
		{"sockstat empty", "net/sockstat", "", noSockstat,
			[]string{"read net/sockstat: no TCP line"}},
		{"sockstat short", "net/sockstat", "sockets: used 9\nTCP: inuse 1 orphan", noSockstat,
			[]string{`read net/sockstat: error reading file: sockstats from "ROOT/thread-self/net/sockstat": error parsing file: sockstat key/value pairs from "TCP: inuse 1 orphan": error parsing file:: Odd number of fields in key/value pairs ["inuse" "1" "orphan"]`}},
		{"sockstat without tw", "net/sockstat", "TCP: inuse 1 orphan 0\n", noSockstat,
			[]string{`read net/sockstat: no usable "tw" in the TCP line`}},
		{"sockstat with negative tw", "net/sockstat", "TCP: inuse 1 tw -1\n", noSockstat,
			[]string{`read net/sockstat: no usable "tw" in the TCP line`}},
		{"sockstat with tw alone", "net/sockstat", "TCP: inuse 1 tw 7\n", func(s *Stats) { s.Memory, s.Orphans = Value{}, Value{} }, nil},
		{"not the initial namespace: memory", memory, absent, noMemoryLimit, nil},
		{"not the initial namespace: orphans", orphans, absent, noOrphansLimit, nil},
		{"memory short", memory, "1 2\n", noMemoryLimit, []string{`read net.ipv4.tcp_mem: got "1 2", want three numbers, 0 or more`}},
		{"orphans negative", orphans, "-1\n", noOrphansLimit, []string{`read net.ipv4.tcp_max_orphans: got "-1", want one number, 0 or more`}},
		{"netstat missing", "net/netstat", absent, noNetstat,
			[]string{"read net/netstat: open ROOT/100/task/101/net/netstat: no such file or directory"}},
		{"netstat empty", "net/netstat", "", noNetstat,
			[]string{
				"read net/netstat: no TcpExt TCPTimeWaitOverflow",
				"read net/netstat: no TcpExt ListenOverflows",
				"read net/netstat: no TcpExt ListenDrops",
			}},
		{"netstat without values", "net/netstat", "TcpExt: ListenOverflows ListenDrops\n", noNetstat,
			[]string{"read net/netstat: error parsing file: mismatch field count mismatch in ROOT/100/task/101/net/netstat: TcpExt"}},
		{"netstat bad after the value", "net/netstat", "TcpExt: ListenOverflows ListenDrops\nTcpExt: 11 many\n",
			func(s *Stats) { s.TimeWaitOverflows, s.ListenDrops = Value{}, Value{} },
			[]string{`read net/netstat: strconv.ParseFloat: parsing "many": invalid syntax`}},
		{"netstat of an older kernel", "net/netstat", "TcpExt: ListenOverflows ListenDrops\nTcpExt: 11 12\n",
			func(s *Stats) { s.TimeWaitOverflows = Value{} },
			[]string{"read net/netstat: no TcpExt TCPTimeWaitOverflow"}},
		{"netstat no counters", "net/netstat",
			"TcpExt: ListenOverflows ListenDrops TCPTimeWaitOverflow\nTcpExt: -1 NaN 1e300\n", noNetstat,
			[]string{
				"read net/netstat: TcpExt TCPTimeWaitOverflow is 1e+300",
				"read net/netstat: TcpExt ListenOverflows is -1",
				"read net/netstat: TcpExt ListenDrops is NaN",
			}},
		{"limit missing", limit, absent, noLimit,
			[]string{"read net.ipv4.tcp_max_tw_buckets: no such file or directory"}},
		{"limit empty", limit, "", noLimit,
			[]string{`read net.ipv4.tcp_max_tw_buckets: got "", want one number, 0 or more`}},
		{"limit negative", limit, "-5\n", noLimit,
			[]string{`read net.ipv4.tcp_max_tw_buckets: got "-5", want one number, 0 or more`}},
		{"limit zero", limit, "0\n", func(s *Stats) { s.TimeWaitLimit = known(0) }, nil},
		{"range missing", ports, absent, noPorts,
			[]string{"read net.ipv4.ip_local_port_range: no such file or directory"}},
		{"range short", ports, "32768\n", noPorts,
			[]string{`read net.ipv4.ip_local_port_range: got "32768", want two ports, the lower first`}},
		{"range reversed", ports, "60999\t32768\n", noPorts,
			[]string{"read net.ipv4.ip_local_port_range: got [60999 32768], want two ports, the lower first"}},
		{"range too high", ports, "32768\t65536\n", noPorts,
			[]string{"read net.ipv4.ip_local_port_range: got [32768 65536], want two ports, the lower first"}},
		{"range of one port", ports, "50000\t50000\n", func(s *Stats) {
			s.LocalPorts, s.EphemeralPorts = sock.PortRange{First: 50000, Last: 50000}, known(1)
		}, nil},
		{"reserved missing", reserved, absent, noReserved,
			[]string{"read net.ipv4.ip_local_reserved_ports: no such file or directory"}},
		{"reserved bad", reserved, "8080,web\n", noReserved,
			[]string{`read net.ipv4.ip_local_reserved_ports: got "web", want a port or a range of ports`}},
		{"reserved endless", reserved, strings.Repeat("1,", 1<<20), noReserved,
			[]string{"read net.ipv4.ip_local_reserved_ports: longer than any list of ports"}},
		{"reserved empty", reserved, "\n", func(s *Stats) { s.EphemeralPorts = known(60999 - 32768 + 1) }, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := proc(t, map[string]string{tt.file: tt.content})
			got, err := read(t, root)
			want := fixture()
			tt.lost(&want)
			if got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
			text := ""
			if err != nil {
				text = strings.ReplaceAll(err.Error(), root, "ROOT")
			}
			if text != strings.Join(tt.want, "\n") {
				t.Errorf("got error\n%s\nwant\n%s", text, strings.Join(tt.want, "\n"))
			}
		})
	}
}

func TestReadJoinsWhatFailed(t *testing.T) {
	got, err := read(t, proc(t, map[string]string{
		"net/sockstat":                    "",
		"net/netstat":                     "",
		"sys/net/ipv4/tcp_max_tw_buckets": "",
	}))
	want := strings.Join([]string{
		"read net/sockstat: no TCP line",
		"read net/netstat: no TcpExt TCPTimeWaitOverflow",
		"read net/netstat: no TcpExt ListenOverflows",
		"read net/netstat: no TcpExt ListenDrops",
		`read net.ipv4.tcp_max_tw_buckets: got "", want one number, 0 or more`,
	}, "\n")
	if err == nil || err.Error() != want {
		t.Errorf("got error\n%v\nwant\n%s", err, want)
	}
	all := fixture()
	if only := (Stats{LocalPorts: all.LocalPorts, EphemeralPorts: all.EphemeralPorts, MemoryPressure: all.MemoryPressure, MemoryLimit: all.MemoryLimit, OrphansLimit: all.OrphansLimit}); got != only {
		t.Errorf("got %+v, want %+v", got, only)
	}
}

func TestNewReaderErrors(t *testing.T) {
	root := t.TempDir()
	for _, tt := range []struct{ path, want string }{
		{root + "/none", `open procfs: could not read "ROOT/none": stat ROOT/none: no such file or directory`},
		{root, `open procfs: could not read "ROOT/thread-self": stat ROOT/thread-self: no such file or directory`},
	} {
		_, err := NewReader(tt.path)
		if err == nil || strings.ReplaceAll(err.Error(), root, "ROOT") != tt.want {
			t.Errorf("got error %v, want %s", err, tt.want)
		}
	}
}

func TestParsePortRanges(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want []portRange
	}{
		{"", nil},
		{"\n", nil},
		{"0\n", []portRange{{0, 0}}},
		{"8080,9000-9100\n", []portRange{{8080, 8080}, {9000, 9100}}},
		{"0-65535\n", []portRange{{0, 65535}}},
	} {
		got, err := parsePortRanges(tt.in)
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%q: got %v, %v, want %v", tt.in, got, err, tt.want)
		}
	}
}

func TestParsePortRangesErrors(t *testing.T) {
	for _, tt := range []struct{ in, item string }{
		{",", ""}, {"80,", ""}, {"80,,81", ""}, {"80-", "80-"}, {"-80", "-80"}, {"81-80", "81-80"},
		{"65536", "65536"}, {"80 81", "80 81"}, {"1-2-3", "1-2-3"}, {"80\n81", "80\n81"},
	} {
		got, err := parsePortRanges(tt.in)
		want := fmt.Sprintf("got %q, want a port or a range of ports", tt.item)
		if err == nil || err.Error() != want || got != nil {
			t.Errorf("%q: got %v, error %v, want %s", tt.in, got, err, want)
		}
	}
}

func TestCountUnreserved(t *testing.T) {
	all := portRange{100, 199}
	for _, tt := range []struct {
		name     string
		reserved []portRange
		want     int
	}{
		{"none", nil, 100},
		{"outside", []portRange{{0, 99}, {200, 65535}}, 100},
		{"edges", []portRange{{100, 100}, {199, 199}}, 98},
		{"half outside", []portRange{{50, 109}, {190, 300}}, 80},
		{"overlapping", []portRange{{110, 119}, {115, 124}}, 85},
		{"within another", []portRange{{110, 149}, {120, 129}, {145, 154}}, 55},
		{"unsorted, twice", []portRange{{150, 159}, {110, 119}, {150, 159}}, 80},
		{"all", []portRange{{0, 65535}}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := countUnreserved(all, tt.reserved); got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
		})
	}
}

func FuzzEphemeralPorts(f *testing.F) {
	f.Add("8080,9000-9100", uint16(32768), uint16(60999))
	f.Add("0-65535", uint16(0), uint16(65535))
	f.Add("5-9,1-7,9", uint16(3), uint16(3))
	f.Fuzz(func(t *testing.T, text string, first, last uint16) {
		reserved, err := parsePortRanges(text)
		if err != nil || first > last {
			return
		}
		taken := make(map[int]bool)
		for _, r := range reserved {
			for p := r.first; p <= r.last; p++ {
				taken[p] = true
			}
		}
		want := 0
		for p := int(first); p <= int(last); p++ {
			if !taken[p] {
				want++
			}
		}
		if got := countUnreserved(portRange{int(first), int(last)}, reserved); got != want {
			t.Errorf("%q of %d-%d: got %d, want %d", text, first, last, got, want)
		}
	})
}
