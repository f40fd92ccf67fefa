package soak

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/reexec"
	"sockstate_exporter/internal/kerneltest/tracers"
	"sockstate_exporter/test/launch"
)

// becomeNobody gives up root.
func becomeNobody() error {
	const nobody = 65534
	if err := syscall.Setgid(nobody); err != nil {
		return err
	}
	return syscall.Setuid(nobody)
}

// What a hostile user listens on.
const (
	crowdPort   = 8080  // on each of crowdSize addresses
	crowdSize   = 10000 // and as many ports of 127.0.0.1
	crowdFirst  = 20000
	crowdShare  = 2000 // of a process: few may have more descriptors than that
	manyShare   = 10_000
	crowdedPort = `port="8080"`
)

// listenAsNobody listens on crowdShare addresses, or ports, or on manyShare of both, from the given
// one on, until it is told to end.
func listenAsNobody(args []string) error {
	share := crowdShare
	if args[0] == "many" {
		share = manyShare
		most := unix.Rlimit{Cur: manyShare + 100, Max: manyShare + 100}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &most); err != nil {
			return err
		}
	}
	if err := becomeNobody(); err != nil {
		return err
	}
	first, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	for i := first; i < first+share; i++ {
		switch args[0] {
		case "addresses":
			err = listenOn([4]byte{127, 1, byte(i >> 8), byte(i)}, crowdPort)
		case "ports":
			err = listenOn([4]byte{127, 0, 0, 1}, crowdFirst+i)
		case "many":
			err = listenOn([4]byte{127, byte(i%50 + 1), byte(i / 50 % 200), byte(i / 10_000 % 200)}, 2000+i%300)
		}
		if err != nil {
			return err
		}
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func listenOn(addr [4]byte, port int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: addr}); err != nil {
		return fmt.Errorf("bind to %v:%d: %w", addr, port, err)
	}
	return unix.Listen(fd, 1)
}

// failToBindAsNobody fails to bind in every way that needs no privilege, and calls itself
// something else each time, until it is told to end. It says how often.
func failToBindAsNobody([]string) error {
	if err := becomeNobody(); err != nil {
		return err
	}
	// Without this, its files in procfs are still root's, and it cannot take another name.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0); err != nil {
		return err
	}
	var stop atomic.Bool
	var failed atomic.Int64
	var wrong atomic.Value
	var running sync.WaitGroup
	for range 2 {
		running.Go(func() {
			for !stop.Load() {
				if err := failOnce(); err != nil {
					wrong.Store(err)
					return
				}
				failed.Add(1)
			}
		})
	}
	fmt.Println("ready")
	_, err := io.Copy(io.Discard, os.Stdin)
	stop.Store(true)
	running.Wait()
	if wrong, ok := wrong.Load().(error); ok {
		return wrong
	}
	fmt.Println(failed.Load())
	return err
}

func failOnce() error {
	var name [15]byte
	for i := range name {
		name[i] = byte(rand.IntN(256))
	}
	if err := os.WriteFile("/proc/self/comm", name[:], 0); err != nil {
		return fmt.Errorf("take a name: %w", err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	addr, want := &unix.SockaddrInet4{Port: crowdPort, Addr: [4]byte{127, 0, 0, 1}}, unix.EADDRINUSE
	switch rand.IntN(3) {
	case 0:
		addr.Port, addr.Addr, want = 1024+rand.IntN(64000), [4]byte{192, 0, 2, 1}, unix.EADDRNOTAVAIL
	case 1:
		addr.Port, want = 1+rand.IntN(1023), unix.EACCES
	}
	if err := unix.Bind(fd, addr); err != want {
		return fmt.Errorf("bind to %v:%d: %v, want %w", addr.Addr, addr.Port, err, want)
	}
	return nil
}

// begin starts a role and waits until it is ready. end tells it to end, and returns what it said.
func begin(t *testing.T, cmd *kerneltest.Cmd) (end func() string) {
	t.Helper()
	stdin, stdout := reexec.StartPiped(t, cmd)
	lines := bufio.NewScanner(stdout)
	if !lines.Scan() || lines.Text() != "ready" {
		t.Fatalf("a role is not ready, it said %q", lines.Text())
	}
	return func() string {
		t.Helper()
		_ = stdin.Close()
		lines.Scan()
		if err := cmd.Wait(); err != nil {
			t.Fatalf("a role ended with %v", err)
		}
		return lines.Text()
	}
}

// maxSeries bounds what --watch.max-ports=1024 and the default bound of listener groups let any
// user make. It is about twice what was seen.
const maxSeries = 100_000

const mib = 1 << 20

func TestCrowdOfListenersIsBounded(t *testing.T) {
	kerneltest.RequireRoot(t)
	ns := kerneltest.New(t)
	server := ns.Listen(t, loopback(5432), kerneltest.Options{})
	e := start(t, ns, 10048)
	quiet := e.scrape(t)
	var ends []func() string
	for first := 0; first < crowdSize; first += crowdShare {
		for _, what := range []string{"addresses", "ports"} {
			ends = append(ends, begin(t, launch.InRole(t, ns, "listen", what, strconv.Itoa(first))))
		}
	}

	var usages []usage
	began := time.Now()
	var s scrape
	for time.Since(began) < loadTime(t) || len(usages) < 9 {
		next := time.Now().Add(scrapeEvery())
		s = e.scrape(t)
		usages = append(usages, e.usage(t, s))
		time.Sleep(time.Until(next))
	}
	took := time.Since(began)
	if n := s.sum(t, "sockstate_tcp_sockets", crowdedPort, `family="ipv4"`, `state="listen"`); n != crowdSize {
		t.Errorf("%v listeners are counted on the crowded port, want %d", n, crowdSize)
	}
	if n := s.sum(t, "sockstate_tcp_listener_groups_dropped", crowdedPort); n != crowdSize-64 {
		t.Errorf("%v groups are not shown, want %d", n, crowdSize-64)
	}
	if n := s.sum(t, "sockstate_watched_ports"); n != 1024 {
		t.Errorf("%v ports are watched, want 1024", n)
	}
	s.sum(t, "sockstate_tcp_listener_info", fmt.Sprintf(`port="%d"`, server.Port())) // is there
	if n := s.series(); n > maxSeries {
		t.Errorf("%d series, want %d at most", n, maxSeries)
	}
	s.valid(t)
	t.Logf("%d series, %d before; %.1f MB of text", s.series(), quiet.series(), float64(len(s))/1e6)
	checkFlat(t, usages)
	logCPU(t, took, usages, 1)
	if m := most(usages); m.rss > 256*mib {
		t.Errorf("takes %v", m)
	}
	for _, end := range ends {
		end()
	}
	eventually(t, "the crowd is forgotten but for ports in the retention", func() string {
		s := e.scrape(t)
		if launch.Metrics(s).Series("sockstate_tcp_listener_groups_dropped{") == 0 {
			return "" // what was seen of an address goes with its listeners
		}
		if n := s.sum(t, "sockstate_tcp_listener_groups_dropped"); n != 0 {
			return fmt.Sprintf("%v groups are not shown", n)
		}
		return ""
	})
}

func TestFailingBindsUnderHostileNamesAreBounded(t *testing.T) {
	kerneltest.RequireRoot(t)
	tracers.Disturb(t)
	ns := kerneltest.New(t)
	ns.Listen(t, loopback(crowdPort), kerneltest.Options{})
	e := start(t, ns, 10048)
	e.scrape(t)
	end := begin(t, launch.InRole(t, ns, "fail"))

	var usages []usage
	series := 0
	began := time.Now()
	for time.Since(began) < loadTime(t) || len(usages) < 9 {
		next := time.Now().Add(scrapeEvery())
		s := e.scrape(t)
		s.valid(t)
		series = max(series, s.series())
		usages = append(usages, e.usage(t, s))
		time.Sleep(time.Until(next))
	}
	took := time.Since(began)
	failures, err := strconv.Atoi(strings.TrimSpace(end()))
	if err != nil {
		t.Fatal(err)
	}
	s := e.scrape(t)
	missed := s.sum(t, "sockstate_bind_tracer_missed_runs_total")
	counted := s.sum(t, "sockstate_bind_failures_total", `netns=""`)
	if counted > float64(failures) || counted < float64(failures)-missed {
		t.Errorf("%v failed binds are counted, want %d, of which the tracer missed %v", counted, failures, missed)
	}
	if counted == 0 {
		t.Error("no failed bind is counted")
	}
	latest := make(map[string]int) // series by all labels but who it was
	for line := range launch.Metrics(s).Samples("sockstate_bind_last_failure_timestamp_seconds", `netns=""`) {
		latest[label(line, "port")+label(line, "protocol")+label(line, "family")]++
	}
	for of, n := range latest {
		if n != 1 {
			t.Errorf("%d series of the latest failure of %s, want 1", n, of)
		}
	}
	if series > 2000+failingPorts*100 {
		t.Errorf("%d series, want no more than for two ports, and %d to which binds fail", series, failingPorts)
	}
	t.Logf("%d failed binds (%.0f a second), %v counted; %d series at most; details of %v lost",
		failures, float64(failures)/took.Seconds(), counted, series, s.sum(t, "sockstate_bind_events_lost_total"))
	checkFlat(t, usages)
	logCPU(t, took, usages, 1)
}

// label is the value of a label, as it is written.
func label(line, name string) string {
	_, rest, _ := strings.Cut(line, name+`="`)
	value, _, _ := strings.Cut(rest, `"`)
	return name + "=" + value + " "
}
