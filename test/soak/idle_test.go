package soak

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
)

// ticks are the clock ticks (a hundredth of a second) that the exporter has used.
func (e *exporter) ticks(t *testing.T) int {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", e.Cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest) // from the third on, state
	const utime, stime = 14 - 3, 15 - 3
	sum := 0
	for _, field := range []int{utime, stime} {
		n, err := strconv.Atoi(fields[field])
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	return sum
}

// bindUntil binds TCP and UDP sockets, to port 0 and to others, and listens on some, for a while.
// It returns how often.
func bindUntil(end time.Time) (binds int, err error) {
	for ; time.Now().Before(end); binds++ {
		kind := []int{unix.SOCK_STREAM, unix.SOCK_DGRAM}[binds%2]
		fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return binds, err
		}
		addr := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
		if binds%4 > 1 {
			addr.Port = 10000 + binds%1000
		}
		if err = unix.Bind(fd, addr); err == nil && kind == unix.SOCK_STREAM {
			err = unix.Listen(fd, 1)
		}
		_ = unix.Close(fd)
		if err != nil {
			return binds, fmt.Errorf("bind to port %d: %w", addr.Port, err)
		}
	}
	return binds, nil
}

// failures are the failed calls of the host that the exporter has counted.
func (s scrape) failures(t *testing.T) (n float64) {
	t.Helper()
	for _, name := range []string{"sockstate_bind_failures_total", "sockstate_listen_failures_total", "sockstate_connect_failures_total"} {
		if strings.Contains(string(s), "\n"+name) {
			n += s.sum(t, name)
		}
	}
	return n
}

// An exporter that nobody scrapes uses no CPU, whatever binds succeed. Other programs of the host
// may make calls that fail, which it counts: the bound grows with them.
func TestExporterThatNobodyScrapesUsesNoCPU(t *testing.T) {
	kerneltest.RequireRoot(t)
	ns := kerneltest.New(t)
	ns.Listen(t, loopback(crowdPort), kerneltest.Options{})
	e := start(t, ns, 10048)
	e.scrape(t)
	time.Sleep(time.Second)         // what a scrape leaves to do is done then: the search for owners
	before := e.scrape(t)           // finds nothing to search
	e.Client.CloseIdleConnections() // a client that leaves is no client
	time.Sleep(100 * time.Millisecond)

	start := e.ticks(t)
	var binds int
	ns.Do(t, func() {
		var err error
		if binds, err = bindUntil(time.Now().Add(loadTime(t))); err != nil {
			t.Fatal(err)
		}
	})
	used := e.ticks(t) - start
	after := e.scrape(t)

	failed := after.failures(t) - before.failures(t)
	// Two for garbage collections, which the Go runtime makes every two minutes, and what a tick
	// is rounded to. An event takes less than a tenth of a millisecond.
	bound := 2 + int(failed/50)
	t.Logf("%d ticks beside %d binds that succeed and %v calls of the host that fail", used, binds, failed)
	if binds < 1000 {
		t.Errorf("%d binds, too few to tell", binds)
	}
	if used > bound {
		t.Errorf("%d ticks of CPU, want %d at most", used, bound)
	}
}
