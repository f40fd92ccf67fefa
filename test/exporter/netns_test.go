package exporter

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/mounts"
	"sockstate_exporter/internal/kerneltest/timewait"
	"sockstate_exporter/test/launch"
)

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	// The kernel does some things when it gets round to it.
	for deadline := time.Now().Add(patience); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// pinDir is a directory for names of namespaces, which an ordinary user may read.
func pinDir(t *testing.T) string {
	t.Helper()
	mounts.RequirePrivate(t)
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // of this test alone
		t.Fatal(err)
	}
	return dir
}

// pin gives the namespace a name, as "ip netns" does.
func pin(t *testing.T, ns *kerneltest.NetNS, dir, name string) (unpin func()) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(ns.Path(), path, "", unix.MS_BIND, ""); err != nil {
		t.Fatalf("mount on %s: %v", path, err)
	}
	unpin = func() {
		_ = unix.Unmount(path, unix.MNT_DETACH)
		_ = os.Remove(path)
	}
	t.Cleanup(unpin)
	return unpin
}

// shown are the series of a network namespace with their values, without those that tell the time.
// An empty name is the exporter's own.
func shown(t *testing.T, metrics, netns string) map[string]string {
	t.Helper()
	label := ""
	if netns != "" {
		label = `netns="` + netns + `"`
	}
	out := make(map[string]string)
	for line := range strings.Lines(metrics) {
		if !ofANamespace.MatchString(line) || ofTheHost.MatchString(line) || !strings.Contains(line, label) || label == "" && strings.Contains(line, "netns=") {
			continue
		}
		at := strings.LastIndexByte(line, ' ')
		series, value := line[:at], strings.TrimSpace(line[at+1:])
		if label != "" {
			series = strings.NewReplacer("{"+label+"}", "", label+",", "", ","+label, "").Replace(series)
		}
		if strings.Contains(series, "_seconds{") && value != "0" && value != "+Inf" {
			value = "some"
		}
		out[series] = value
	}
	return out
}

// ofANamespace matches series that each namespace has, and ofTheHost those of them that are there once.
var (
	ofANamespace = regexp.MustCompile(`^sockstate_(tcp|udp|netns)_`)
	ofTheHost    = regexp.MustCompile(`^sockstate_tcp_(memory|orphans)_?`)
)

func TestOtherNamespaceIsShownAsFromInside(t *testing.T) {
	dir := pinDir(t)
	own, blue := kerneltest.New(t), kerneltest.New(t)
	pin(t, blue, dir, "blue")
	var servers []*kerneltest.Listener
	for _, addr := range []string{"127.0.0.1:4840", "[::1]:4841", "[::]:4842", "127.0.0.1:4843"} {
		l := blue.Listen(t, netip.MustParseAddrPort(addr), kerneltest.Options{ReuseAddr: true, Backlog: 5})
		from := loopback(0).Addr()
		if addr == "[::1]:4841" {
			from = netip.IPv6Loopback()
		}
		l.Peers(t, kerneltest.StateEstablished, 3, from)
		l.Peers(t, kerneltest.StateCloseWait, 2, from)
		servers = append(servers, l)
	}
	blue.Bind(t, loopback(4850), kerneltest.Options{})
	blue.ListenUDP(t, loopback(5353), kerneltest.Options{})
	own.Listen(t, loopback(4840), kerneltest.Options{})

	flags := []string{"--watch.exclude=10048", "--watch.remote-port=4840", "--watch.port=4850", "--no-collector.bind",
		"--no-collector.owner"} // which on a busy machine is not known at once
	outside := start(t, own, append(flags, "--netns="+dir+"/*")...)
	// In blue a port that is asked for is watched once it listens.
	elsewhere := regexp.MustCompile(`port="4850"`)
	for {
		made := time.Now()
		timewait.MustMake(t, blue, timewait.Options{Count: 20, Listeners: servers[:1]})
		fromOutside := shown(t, outside.Get(t, "/metrics"), "blue")
		inside := start(t, blue, flags...)
		fromInside := shown(t, inside.Get(t, "/metrics"), "")
		inside.Stop()
		maps.DeleteFunc(fromInside, func(series, _ string) bool { return elsewhere.MatchString(series) })
		if time.Since(made) > 40*time.Second {
			continue // some of the sockets may be gone by then
		}
		if len(fromInside) < 60 {
			t.Errorf("only %d series from inside", len(fromInside))
		}
		for series, value := range fromInside {
			if got := fromOutside[series]; got != value {
				t.Errorf("%s is %q from outside, %q from inside", series, got, value)
			}
		}
		for series := range fromOutside {
			if _, ok := fromInside[series]; !ok {
				t.Errorf("%s is there from outside only", series)
			}
		}
		break
	}
	wantLines(t, outside.Get(t, "/metrics"),
		`sockstate_tcp_sockets{family="ipv4",netns="blue",port="4840",state="established"} 3`,
		`sockstate_tcp_sockets{family="ipv4",port="4840",state="established"} 0`,
		`sockstate_udp_sockets{family="ipv4",netns="blue",port="5353"} 1`,
		`sockstate_tcp_remote_sockets{family="ipv4",netns="blue",remote_port="4840",state="established"} 3`,
		`sockstate_watched_namespaces 1`,
		`sockstate_feature_available{feature="namespaces"} 1`,
	)
}

func TestNamesOfNamespacesAreLabels(t *testing.T) {
	dir, second := pinDir(t), pinDir(t)
	own := kerneltest.New(t)
	hostile := []string{"plain", "other", "a\nb", "quote\"\\}", "\xff\xfe", "\u202egnirts", strings.Repeat("x", 200)}
	wanted := make(map[string]bool)
	for i, name := range hostile {
		ns := kerneltest.New(t)
		ns.Listen(t, loopback(uint16(5000+i)), kerneltest.Options{})
		pin(t, ns, dir, name)
		wanted[strconv.Itoa(5000+i)] = true
		if name == "other" {
			// What its label is changed to.
			next := kerneltest.New(t)
			next.Listen(t, loopback(6000), kerneltest.Options{})
			pin(t, next, dir, fmt.Sprintf("other#%d", ns.Inode()))
			wanted["6000"] = true
		}
	}
	same := kerneltest.New(t)
	same.Listen(t, loopback(6001), kerneltest.Options{})
	pin(t, same, second, "plain")
	wanted["6001"] = true

	e := start(t, own, withoutPrivileges("--watch.exclude=10048", "--netns="+dir+"/*", "--netns="+second+"/*")...)
	metrics := e.Get(t, "/metrics")
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(metrics))
	if err != nil {
		t.Fatal(err)
	}
	ports := make(map[string]string)
	for _, m := range families["sockstate_tcp_listener_accept_queue"].GetMetric() {
		var netns, port string
		for _, l := range m.GetLabel() {
			switch l.GetName() {
			case "netns":
				netns = l.GetValue()
			case "port":
				port = l.GetValue()
			}
		}
		if netns == "" || netns == "other" || ports[netns] != "" {
			t.Errorf("port %s has netns=%q, port %s too", port, netns, ports[netns])
		}
		ports[netns] = port
		delete(wanted, port)
	}
	if len(wanted) > 0 || ports["plain"] != "5000" {
		t.Errorf("namespaces %q, without ports %v, want port 5000 in plain", ports, slices.Collect(maps.Keys(wanted)))
	}
	seen := make(map[string]bool)
	for line := range strings.Lines(metrics) {
		series := sampleValue.ReplaceAllString(strings.TrimSpace(line), "")
		if seen[series] && !strings.HasPrefix(line, "#") {
			t.Errorf("%s is there twice", series)
		}
		seen[series] = true
	}
}

// held are the network namespaces that the exporter has open.
func (e *exporter) namespaces(t *testing.T) []string {
	t.Helper()
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", e.Cmd.Process.Pid))
	if err != nil || len(links) == 0 {
		t.Fatalf("no descriptors: %v", err)
	}
	var held []string
	for _, link := range links {
		if to, _ := os.Readlink(link); strings.HasPrefix(to, "net:[") {
			held = append(held, to)
		}
	}
	return held
}

// Between two scrapes the kernel can remove what the host has deleted.
func TestNamespacesAreNotHeldBetweenScrapes(t *testing.T) {
	dir := pinDir(t)
	own := kerneltest.New(t)
	e := start(t, own, "--netns="+dir+"/*")
	e.Get(t, "/metrics")
	before := e.process(t).descriptors
	for i := range 5 {
		ns := kerneltest.New(t)
		ns.Listen(t, loopback(80), kerneltest.Options{})
		pin(t, ns, dir, strconv.Itoa(i))
	}
	wantLines(t, e.Get(t, "/metrics"), `sockstate_watched_namespaces 5`)
	if held := e.namespaces(t); len(held) > 0 {
		t.Errorf("holds %v", held)
	}
	// Others come and go: the exporter looks into a binder's process after an event.
	now := e.process(t).descriptors
	for deadline := time.Now().Add(launch.Patience); now > before; now = e.process(t).descriptors {
		if time.Now().After(deadline) {
			t.Fatalf("%d descriptors, %d without other namespaces", now, before)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func TestNamespaceThatGoesTakesItsSeriesAlong(t *testing.T) {
	dir := pinDir(t)
	own, blue := kerneltest.New(t), kerneltest.New(t)
	unpin := pin(t, blue, dir, "blue")
	l := blue.Listen(t, loopback(4840), kerneltest.Options{})
	e := start(t, own, "--netns="+dir+"/*")
	if got := shown(t, e.Get(t, "/metrics"), "blue"); got[`sockstate_tcp_sockets{family="ipv4",port="4840",state="listen"}`] != "1" {
		t.Fatalf("shows %v", got)
	}
	_ = l.Close()
	_ = blue.Close()
	unpin()
	metrics := e.Get(t, "/metrics")
	if strings.Contains(metrics, `netns="blue"`) {
		t.Errorf("still shows\n%s", strings.Join(grep(strings.Split(metrics, "\n"), "sockstate_tcp"), "\n"))
	}
	wantLines(t, metrics, `sockstate_watched_namespaces 0`, `sockstate_scrape_collector_success{collector="netns"} 1`)
}

// A user is a network namespace and uid: root here and root there are two.
func TestNamespacesShareTheBudgetWherePortsAreMany(t *testing.T) {
	dir := pinDir(t)
	own, blue := kerneltest.New(t), kerneltest.New(t)
	pin(t, blue, dir, "blue")
	for port := uint16(1001); port <= 1003; port++ {
		own.Listen(t, loopback(port+1000), kerneltest.Options{})
		blue.Listen(t, loopback(port), kerneltest.Options{})
	}
	e := start(t, own, withoutPrivileges("--watch.exclude=10048", "--watch.max-ports=4", "--netns="+dir+"/*")...)
	row := func(netns string, port int) string {
		return fmt.Sprintf(`sockstate_watched_port_info{%sport="%d",protocol="tcp",source="listener"} 1`, netns, port)
	}
	const ofBlue = `netns="blue",`
	wantLines(t, e.Get(t, "/metrics"), row("", 2001), row("", 2002), row(ofBlue, 1001), row(ofBlue, 1002),
		`sockstate_watched_ports 4`, `sockstate_watched_ports_dropped 2`)
}

// process is what a running exporter holds.
type process struct{ descriptors, threads, goroutines int }

func (e *exporter) process(t *testing.T) process {
	t.Helper()
	var p process
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", e.Cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	p.descriptors, p.threads = e.Descriptors(t), len(threads)
	for _, n := range samples(t, e, "go_goroutines") {
		p.goroutines = int(n)
	}
	return p
}

// A thousand namespaces go while scrapes are on their way.
func TestNamespacesThatGoInMidScrapeLeaveNothing(t *testing.T) {
	dir := pinDir(t)
	own := kerneltest.New(t)
	e := start(t, own, "--watch.exclude=10048", "--watch.max-ports=20", "--netns="+dir+"/*")

	type pinned struct {
		ns    *kerneltest.NetNS
		l     *kerneltest.Listener
		unpin func()
	}
	churn := func(count int) {
		stop, scraped := make(chan struct{}), make(chan error, 1)
		go func() {
			for {
				select {
				case <-stop:
					scraped <- nil
					return
				default:
				}
				if status, body, err := e.TryGet("/metrics"); err != nil || status != 200 {
					scraped <- fmt.Errorf("status %d: %v\n%s", status, err, body)
					return
				}
			}
		}()
		var alive []pinned
		release := func(n int) {
			for ; len(alive) > n; alive = alive[1:] {
				_ = alive[0].l.Close()
				_ = alive[0].ns.Close()
				alive[0].unpin()
			}
		}
		for i := range count {
			ns, err := kerneltest.Open()
			if err != nil {
				t.Fatal(err)
			}
			l, err := ns.OpenListener(loopback(uint16(1024+i%1000)), kerneltest.Options{})
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, strconv.Itoa(i))
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mount(ns.Path(), path, "", unix.MS_BIND, ""); err != nil {
				t.Fatal(err)
			}
			alive = append(alive, pinned{ns, l, func() {
				_ = unix.Unmount(path, unix.MNT_DETACH)
				_ = os.Remove(path)
			}})
			release(8)
		}
		release(0)
		close(stop)
		if err := <-scraped; err != nil {
			t.Fatal(err)
		}
	}
	churn(50) // threads and descriptors that are kept for use again
	before := e.process(t)
	churn(1000)

	metrics := e.Get(t, "/metrics")
	// Calls fail in none of them. But the kernel gives inode numbers again at once: what fails in a namespace of
	// another test, in the same moment, can count under the name of the one that had the number before.
	failed := regexp.MustCompile(`^sockstate_(bind|listen|connect)_`)
	for _, stale := range regexp.MustCompile(`(?m)^.*netns="[0-9].*$`).FindAllString(metrics, -1) {
		if !failed.MatchString(stale) {
			t.Errorf("still shows %s", stale)
		}
	}
	wantLines(t, metrics, `sockstate_watched_namespaces 0`, `sockstate_watched_ports 0`)
	for series, value := range samples(t, e, "sockstate_scrape_collector_success") {
		if value != 1 {
			t.Errorf("%s is %v\n%s", series, value, e.Log)
		}
	}
	var after process
	eventually(t, "the exporter holds no more than before", func() bool {
		after = e.process(t)
		return after.descriptors <= before.descriptors && after.goroutines <= before.goroutines
	})
	// A thread that idles is kept, and there may have been more to do at a time.
	if after.threads > before.threads+40 {
		t.Errorf("%d threads, %d before", after.threads, before.threads)
	}
	if held := e.namespaces(t); len(held) > 0 {
		t.Errorf("holds %v", held)
	}
	t.Logf("before %+v, after %+v", before, after)

	// They gave their ports back.
	last := kerneltest.New(t)
	last.Listen(t, loopback(80), kerneltest.Options{})
	pin(t, last, dir, "last")
	// Those that went last are only missed for a minute, and keep theirs as long.
	eventually(t, "the ports are given back", func() bool {
		metrics = e.Get(t, "/metrics")
		return strings.Contains(metrics, "\nsockstate_watched_ports 1\n")
	})
	wantLines(t, metrics, `sockstate_watched_ports_dropped 0`)
}

func TestFiveHundredNamespaces(t *testing.T) {
	dir := pinDir(t)
	own := kerneltest.New(t)
	for i := range 500 {
		ns := kerneltest.New(t)
		ns.Listen(t, loopback(80), kerneltest.Options{})
		pin(t, ns, dir, strconv.Itoa(i))
	}
	e := start(t, own, "--watch.max-ports=600", "--netns="+dir+"/*")
	metrics := e.Get(t, "/metrics")
	wantLines(t, metrics, `sockstate_watched_namespaces 500`, `sockstate_watched_ports 501`, `sockstate_watched_ports_dropped 0`)
	var lines []string
	for i := range 500 {
		lines = append(lines, fmt.Sprintf(`sockstate_tcp_listener_accept_queue{address="127.0.0.1",family="ipv4",netns="%d",port="80"} 0`, i))
	}
	wantLines(t, strings.Join(grep(strings.Split(metrics, "\n"), "sockstate_tcp_listener_accept_queue{"), "\n"), lines...)
	for series, value := range samples(t, e, "sockstate_scrape_collector_success") {
		if value != 1 {
			t.Errorf("%s is %v\n%s", series, value, e.Log)
		}
	}
}

func TestWhatNamespacesNeed(t *testing.T) {
	kerneltest.RequireRoot(t)
	dir := pinDir(t)
	own, blue := kerneltest.New(t), kerneltest.New(t)
	pin(t, blue, dir, "blue")
	blue.Listen(t, loopback(4840), kerneltest.Options{})
	own.Listen(t, loopback(4841), kerneltest.Options{})
	sleeper := launch.InRole(t, blue, "sleep")
	if err := sleeper.Start(); err != nil { // of root
		t.Fatal(err)
	}
	inBlue := func(name string) string {
		return fmt.Sprintf(`sockstate_tcp_listener_accept_queue{address="127.0.0.1",family="ipv4",netns="%s",port="4840"} 0`, name)
	}
	byNumber := fmt.Sprintf("net:[%d]", blue.Inode())
	for _, tt := range []struct {
		caps, flag, kept string
		want             feature
		name             string // under which blue is shown, if it is
	}{
		{"", "--netns=" + dir + "/blue", "", feature{reason: "cap_sys_admin"}, ""},
		{"CAP_SYS_ADMIN", "--netns=" + dir + "/blue", "CAP_SYS_ADMIN", feature{works: true}, "blue"},
		{"CAP_SYS_PTRACE", "--netns.processes", "CAP_SYS_PTRACE", feature{reason: "cap_sys_admin"}, ""},
		{"CAP_SYS_ADMIN", "--netns.processes", "CAP_SYS_ADMIN", feature{works: true}, ""},
		{"CAP_SYS_ADMIN CAP_SYS_PTRACE", "--netns.processes", "CAP_SYS_PTRACE CAP_SYS_ADMIN", feature{works: true}, byNumber},
	} {
		t.Run(tt.flag+" "+tt.caps, func(t *testing.T) {
			e := startAs(t, own, strings.Fields(tt.caps), withoutPrivileges(tt.flag, "--watch.exclude=10048", "--watch.max-ports=60000")...)
			if got := featureOf(t, e, "namespaces"); got != tt.want {
				t.Errorf("namespaces is %+v, want %+v", got, tt.want)
			}
			e.checkKept(t, strings.Fields(tt.kept)...)
			metrics := e.Get(t, "/metrics")
			wantLines(t, metrics, `sockstate_tcp_listener_accept_queue{address="127.0.0.1",family="ipv4",port="4841"} 0`)
			if tt.name != "" {
				wantLines(t, metrics, inBlue(tt.name))
			} else if strings.Contains(metrics, `port="4840"`) {
				t.Error("shows the other namespace")
			}
			// With --netns.processes there may be namespaces of others that go meanwhile.
			for series, value := range samples(t, e, "sockstate_scrape_collector_success") {
				if value != 1 {
					t.Errorf("%s is %v\n%s", series, value, e.Log)
				}
			}
		})
	}
}

func TestFailedBindsOfAnotherNamespace(t *testing.T) {
	dir := pinDir(t)
	own, blue := kerneltest.New(t), kerneltest.New(t)
	unpin := pin(t, blue, dir, "blue")
	const port = 2745 // no other test asks for it
	l := blue.Listen(t, loopback(port), kerneltest.Options{})
	e := startTracing(t, own, "--netns="+dir+"/*")

	failure := func(netns string) string {
		return call{"ipv4", "tcp"}.series(netns, strconv.Itoa(port), "EADDRINUSE")
	}
	conflict := func(netns, diagnosis string) string {
		return fmt.Sprintf(`sockstate_bind_conflicts_total{diagnosis="%s",family="ipv4",netns="%s",port="%d",protocol="tcp"}`, diagnosis, netns, port)
	}
	binds := func() map[string]float64 {
		all := samples(t, e, "sockstate_bind_failures_total", "sockstate_bind_conflicts_total")
		maps.DeleteFunc(all, func(series string, _ float64) bool {
			return !strings.Contains(series, fmt.Sprintf(`port="%d"`, port)) || !strings.Contains(series, `netns="blue"`) && !strings.Contains(series, `netns="other"`)
		})
		return all
	}
	before := binds()
	if n, ok := before[failure("blue")]; !ok || n != 0 {
		t.Errorf("before: %v, want a 0 of %s", before, failure("blue"))
	}
	bind := func(ns *kerneltest.NetNS) {
		s, err := ns.OpenBound(loopback(port), kerneltest.Options{})
		if err == nil {
			_ = s.Close()
			t.Fatal("bind succeeded")
		}
	}
	// Storms that other tests make may cost some of the diagnoses, and no count.
	n, grew := 0.0, map[string]float64(nil)
	eventually(t, "the diagnosis of a conflict in blue", func() bool {
		bind(blue)
		n++
		grew = grown(before, binds())
		return grew[conflict("blue", "own_listener")] > 0
	})
	delete(grew, conflict("blue", "own_listener"))
	maps.DeleteFunc(grew, func(series string, _ float64) bool { // other tests bind to random ports
		return strings.Contains(series, `errno="EADDRNOTAVAIL"`)
	})
	if want := map[string]float64{failure("blue"): n}; !maps.Equal(grew, want) {
		t.Errorf("beside conflicts with a listener %v, want %v", grew, want)
	}
	logged := regexp.MustCompile(`msg="address already in use" netns=blue port=2745 diagnosis=own_listener failures=\d+ `)
	eventually(t, "a log line of the conflict", func() bool { return logged.MatchString(e.Log.String()) })
	last := samples(t, e, "sockstate_bind_last_failure_timestamp_seconds")
	if !slices.ContainsFunc(slices.Collect(maps.Keys(last)), func(s string) bool {
		return strings.Contains(s, `netns="blue"`) && strings.Contains(s, fmt.Sprintf(`port="%d"`, port))
	}) {
		t.Errorf("latest failures are %v", last)
	}

	// What nobody watches any more counts for other namespaces and ports.
	others := func() float64 {
		all := samples(t, e, "sockstate_bind_failures_total")
		return all[failure("other")] + all[call{"ipv4", "tcp"}.series("other", "other", "EADDRINUSE")]
	}
	counted := others()
	_ = l.Close()
	inode := blue.Inode()
	_ = blue.Close()
	unpin()
	// A namespace that is missed keeps its counters for a minute.
	eventually(t, "the namespace is forgotten", func() bool {
		for series := range binds() {
			if strings.Contains(series, `netns="blue"`) {
				return false
			}
		}
		return true
	})
	if got := others(); got < counted+n {
		t.Errorf("%v failures elsewhere once it is gone, want %v more than the %v before", got, n, counted)
	}
	// The kernel hands out the lowest free number, unless somebody else gets it.
	next := kerneltest.New(t)
	for range 100 {
		if next.Inode() == inode {
			break
		}
		time.Sleep(10 * time.Millisecond)
		next = kerneltest.New(t)
	}
	t.Logf("the number is used again: %v", next.Inode() == inode)
	next.Listen(t, loopback(port), kerneltest.Options{})
	pin(t, next, dir, "red")
	red := samples(t, e, "sockstate_bind_failures_total")
	if n, ok := red[failure("red")]; !ok || n != 0 {
		t.Errorf("another namespace begins with %v, want a 0 of %s", n, failure("red"))
	}
	bind(next)
	if got := samples(t, e, "sockstate_bind_failures_total"); got[failure("red")] != 1 {
		t.Errorf("%v in red, want 1", got[failure("red")])
	}
}
