package soak

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/mounts"
	"sockstate_exporter/internal/kerneltest/tracers"
	"sockstate_exporter/test/history"
	"sockstate_exporter/test/launch"
)

// countersTime is ten times as long as other loads: ten minutes with `make test-long`.
func countersTime(t *testing.T) time.Duration {
	t.Helper()
	if soaking() {
		return 10 * loadTime(t)
	}
	return time.Minute
}

// A scraper asks an exporter about once a second, and checks what it gets.
type scraper struct {
	*exporter
	history *history.History
	always  []string // network namespaces that are there all the time
	scrapes atomic.Int64
	partial int // scrapes in which a part was missing
	last    launch.Metrics
	seen    map[string]bool // by look
}

// The clients of a scraper, in turn.
func clients() []http.Header {
	const text, open = "text/plain;version=0.0.4;q=0.5,*/*;q=0.1", "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
	var all []http.Header
	for _, accept := range []string{text, open} {
		for _, encoding := range []string{"identity", "gzip"} {
			all = append(all, http.Header{
				"Accept": {accept}, "Accept-Encoding": {encoding}, "X-Prometheus-Scrape-Timeout-Seconds": {"10"},
			})
		}
	}
	return all
}

// run scrapes until stop is closed or something is wrong.
func (s *scraper) run(stop <-chan struct{}) error {
	for n := 0; ; n++ {
		next := time.After(time.Second)
		if err := s.scrapeOnce(clients()[n%4]); err != nil {
			return fmt.Errorf("%s, scrape %d: %w", s.Address, n, err)
		}
		s.scrapes.Add(1)
		select {
		case <-stop:
			return nil
		case <-next:
		}
	}
}

func (s *scraper) scrapeOnce(header http.Header) error {
	contentType, body, err := s.ask(header)
	if err != nil {
		return err
	}
	if asked := strings.Split(header.Get("Accept"), ";")[0]; !strings.HasPrefix(contentType, asked) {
		return fmt.Errorf("content type %q, want %s", contentType, asked)
	}
	if problems := s.history.Add(time.Now(), contentType, body); len(problems) > 0 {
		return fmt.Errorf("%d problems:\n%s", len(problems), strings.Join(problems[:min(len(problems), 20)], "\n"))
	}
	s.last = launch.Metrics(body)
	s.look()
	for _, netns := range s.always {
		if _, err := s.last.Sum("sockstate_netns_time_wait_limit", fmt.Sprintf("netns=%q", netns)); err != nil {
			return err
		}
	}
	for line := range s.last.Samples("sockstate_scrape_collector_success") {
		if strings.HasSuffix(line, " 0") {
			s.partial++
			break
		}
	}
	return nil
}

func (s *scraper) ask(header http.Header) (contentType string, body []byte, err error) {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+s.Address+"/metrics", http.NoBody)
	if err != nil {
		return "", nil, err
	}
	req.Header = header
	resp, err := s.Client.Do(req)
	if err != nil {
		return "", nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", nil, fmt.Errorf("status %s", resp.Status)
	}
	in := io.Reader(resp.Body)
	encoding := "identity"
	if resp.Header.Get("Content-Encoding") == "gzip" {
		encoding = "gzip"
		if in, err = gzip.NewReader(resp.Body); err != nil {
			return "", nil, err
		}
	}
	if asked := header.Get("Accept-Encoding"); encoding != asked {
		return "", nil, fmt.Errorf("encoding %s, want %s", encoding, asked)
	}
	body, err = io.ReadAll(in)
	return resp.Header.Get("Content-Type"), body, err
}

// A commotion is everything that runs beside the scrapers. The first error ends it.
type commotion struct {
	t       *testing.T
	running sync.WaitGroup
	stop    chan struct{}
	end     sync.Once
	failed  atomic.Pointer[error]
}

func (c *commotion) halt() { c.end.Do(func() { close(c.stop) }) }

// start runs f until stop is closed, or until it fails.
func (c *commotion) start(f func(stop <-chan struct{}) error) {
	c.running.Go(func() {
		if err := f(c.stop); err != nil {
			c.failed.CompareAndSwap(nil, &err)
			c.halt()
		}
	})
}

// act starts the activities of a namespace.
func (c *commotion) act(ns *kerneltest.NetNS) {
	for _, a := range activities() {
		c.start(func(stop <-chan struct{}) error { return ns.Run(func() error { return a.run(stop) }) })
	}
	c.startProcesses(ns)
}

func (c *commotion) startProcesses(ns *kerneltest.NetNS) {
	c.start(func(stop <-chan struct{}) error {
		return startProcesses(func(uid string) *kerneltest.Cmd { return launch.InRole(c.t, ns, "act", uid) }, stop)
	})
}

// comeAndGo has a network namespace of a name again and again, each time a new one. Once it is gone,
// it waits until each scraper has seen that.
func (c *commotion) comeAndGo(path string, scrapers []*scraper, stop <-chan struct{}) error {
	ended := func(d time.Duration) bool {
		select {
		case <-stop:
			return true
		case <-time.After(d):
			return false
		}
	}
	for {
		if err := c.live(path, time.Duration(2000+rand.IntN(8000))*time.Millisecond, ended); err != nil {
			return err
		}
		var seen []int64
		for _, s := range scrapers {
			seen = append(seen, s.scrapes.Load()+2) // one may have begun before
		}
		for i, s := range scrapers {
			for s.scrapes.Load() < seen[i] {
				if ended(100 * time.Millisecond) {
					return nil
				}
			}
		}
		if ended(time.Duration(rand.IntN(3000)) * time.Millisecond) {
			return nil
		}
	}
}

// live has a network namespace for a while.
func (c *commotion) live(path string, long time.Duration, ended func(time.Duration) bool) error {
	ns, err := kerneltest.Open()
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	if err := unix.Mount(ns.Path(), path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount on %s: %w", path, err)
	}
	defer func() {
		_ = unix.Unmount(path, unix.MNT_DETACH)
		_ = os.Remove(path)
	}()

	inner := &commotion{t: c.t, stop: make(chan struct{})}
	inner.act(ns)
	for rest := long; rest > 0 && !ended(100*time.Millisecond); rest -= 100 * time.Millisecond {
	}
	inner.halt()
	inner.running.Wait()
	if err := inner.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// Everything that the exporter counts comes and goes. To Prometheus no counter may fall, and no series
// be there twice. One exporter watches for as long as by default, so that no port leaves the watch; the
// other for two seconds and a few ports only, and finds network namespaces by their processes as well.
func TestCountersDoNotFallWhileEverythingComesAndGoes(t *testing.T) {
	kerneltest.RequireRoot(t)
	mounts.RequirePrivate(t)
	tracers.Disturb(t)
	dir := t.TempDir()
	own, steady, cramped, unnamed := kerneltest.New(t), kerneltest.New(t), kerneltest.New(t), kerneltest.New(t)
	cramped.Sysctl(t, "net.ipv4.ip_local_port_range", "40000 40003")
	for name, ns := range map[string]*kerneltest.NetNS{"steady": steady, "cramped": cramped} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount(ns.Path(), path, "", unix.MS_BIND, ""); err != nil {
			t.Fatalf("mount on %s: %v", path, err)
		}
		t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
	}
	byProcess := fmt.Sprintf("net:[%d]", unnamed.Inode())
	for _, program := range []string{"exec sleep 1000000", "while :; do sleep 0.02; done", "while :; do sleep 0.02; done"} {
		if err := unnamed.Command(t, "sh", "-c", program).Start(); err != nil {
			t.Fatal(err)
		}
	}

	names := []string{"blue", "green", "red"}
	ours := map[string]bool{"": true, "other": true, "steady": true, "cramped": true, byProcess: true}
	for _, name := range names {
		ours[name] = true
	}
	watching := []string{
		"--netns=" + dir + "/*", "--watch.remote-port=5000-5010",
		fmt.Sprintf("--watch.port=%d:opcua", namedPort), fmt.Sprintf("--watch.port=%d/udp:mdns", namedUDPPort),
	}
	newScraper := func(port int, retention time.Duration, always []string, args ...string) *scraper {
		args = append(args, "--watch.retention="+retention.String())
		return &scraper{
			exporter: start(t, own, port, append(args, watching...)...), always: always,
			history: history.New(history.Config{Watches: func(netns string) bool { return ours[netns] }, Retention: retention}),
			seen:    map[string]bool{},
		}
	}
	scrapers := []*scraper{
		newScraper(10048, 10*time.Minute, []string{"steady", "cramped"}),
		newScraper(10049, 2*time.Second, []string{"steady", "cramped", byProcess}, "--netns.processes", "--watch.max-ports=60"),
	}

	c := &commotion{t: t, stop: make(chan struct{})}
	for _, s := range scrapers {
		c.start(s.run)
	}
	for _, ns := range []*kerneltest.NetNS{own, steady, unnamed} {
		c.act(ns)
	}
	crowd := &activity{round: useUpPorts}
	c.start(func(stop <-chan struct{}) error { return cramped.Run(func() error { return crowd.run(stop) }) })
	for _, name := range names {
		c.start(func(stop <-chan struct{}) error { return c.comeAndGo(filepath.Join(dir, name), scrapers, stop) })
	}
	select {
	case <-c.stop:
	case <-time.After(countersTime(t)):
	}
	c.halt()
	c.running.Wait()
	if err := c.failed.Load(); err != nil {
		t.Fatal(*err)
	}
	for _, s := range scrapers {
		t.Logf("%s: %d scrapes, a part was missing in %d; %d series in the last; %d counters began anew with their port or network namespace",
			s.Address, s.scrapes.Load(), s.partial, s.last.Series("sockstate_"), s.history.Restarts())
		s.checkAllWasCounted(t)
	}
	if scrapers[1].history.Restarts() == 0 {
		t.Error("no counter began anew: no port or network namespace came back")
	}
}

// counted is what the activities bring about: a metric and labels of it. Some series are there only as
// long as their listener.
func counted() [][]string {
	return [][]string{
		{"sockstate_bind_failures_total", `errno="EADDRINUSE"`, `protocol="tcp"`},
		{"sockstate_bind_failures_total", `errno="EADDRINUSE"`, `protocol="udp"`},
		{"sockstate_bind_failures_total", `errno="EADDRNOTAVAIL"`, `family="ipv4"`},
		{"sockstate_bind_failures_total", `errno="EADDRNOTAVAIL"`, `family="ipv6"`},
		{"sockstate_bind_failures_total", `errno="EACCES"`},
		{"sockstate_bind_failures_total", `errno="EINVAL"`},
		{"sockstate_bind_failures_total", `netns="cramped"`, `port="0"`},
		{"sockstate_bind_failures_total", `netns="other"`},
		{"sockstate_bind_failures_total", `port="other"`},
		{"sockstate_listen_failures_total"},
		{"sockstate_connect_failures_total", `netns="cramped"`},
		{"sockstate_bind_conflicts_total", `diagnosis="own_listener"`},
		{"sockstate_bind_conflicts_total", `diagnosis="bound_only"`},
		{"sockstate_tcp_listener_drops_total"},
		{"sockstate_udp_drops_total", `family="ipv4"`},
		{"sockstate_udp_drops_total", `family="ipv6"`},
		{"sockstate_netns_listen_overflows_total", `netns="steady"`},
		{"sockstate_tcp_sockets", `state="time_wait"`, `family="ipv4"`},
		{"sockstate_tcp_sockets", `state="time_wait"`, `family="ipv6"`},
	}
}

// look notes what the last scrape shows for the first time.
func (s *scraper) look() {
	for _, want := range counted() {
		name := strings.Join(want, " ")
		if s.seen[name] {
			continue
		}
		if n, err := s.last.Sum(want[0], want[1:]...); err == nil && n > 0 {
			s.seen[name] = true
		}
	}
}

// checkAllWasCounted fails where an activity was not seen in any scrape.
func (s *scraper) checkAllWasCounted(t *testing.T) {
	t.Helper()
	for _, want := range counted() {
		if name := strings.Join(want, " "); !s.seen[name] {
			t.Errorf("%s: no scrape had a value above 0 for %s", s.Address, name)
		}
	}
}
