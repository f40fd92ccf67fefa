package soak

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/test/launch"
)

const (
	failingPort = 8443 // a server cannot bind to it
	// failingPorts is how many ports are watched at most because binds fail.
	failingPorts = 64
)

// floodAsNobody fails to bind to all ports there are, again and again, until it is told to end.
func floodAsNobody([]string) error {
	if err := becomeNobody(); err != nil {
		return err
	}
	var stop atomic.Bool
	failed := make(chan error, 1)
	go func() {
		for port := 1; !stop.Load(); port = port%65535 + 1 {
			err := bindOnce(unix.SOCK_STREAM, netip.AddrFrom4([4]byte{192, 0, 2, 1}), port)
			if err != unix.EADDRNOTAVAIL && err != unix.EACCES {
				failed <- fmt.Errorf("bind to port %d: %w", port, err)
				return
			}
		}
		failed <- nil
	}()
	fmt.Println("ready")
	_, err := io.Copy(io.Discard, os.Stdin)
	stop.Store(true)
	if failure := <-failed; failure != nil {
		return failure
	}
	return err
}

// bindOnce returns what bind() answers.
func bindOnce(typ int, addr netip.Addr, port int) error {
	fd, err := unix.Socket(unix.AF_INET, typ|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: addr.As4()})
}

// A server of root that cannot start, beside a user who fails to bind to all ports.
func TestFailingServerStaysInSight(t *testing.T) {
	kerneltest.RequireRoot(t)
	ns := kerneltest.New(t)
	e := start(t, ns, 10048)
	if n := e.scrape(t).sum(t, "sockstate_watched_ports"); n != 1 { // its own
		t.Fatalf("%v ports are watched, want 1", n)
	}
	defer begin(t, launch.InRole(t, ns, "flood"))()

	localhost, foreign := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("192.0.2.1")
	stop := make(chan struct{})
	ended := make(chan error, 1)
	defer func() {
		close(stop)
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	go func() {
		ended <- ns.Run(func() error {
			// Bound, and listening to nobody.
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			if err := unix.Bind(fd, &unix.SockaddrInet4{Port: failingPort, Addr: localhost.As4()}); err != nil {
				return err
			}
			for {
				if err := bindOnce(unix.SOCK_STREAM, localhost, failingPort); err != unix.EADDRINUSE {
					return fmt.Errorf("the server's bind: %w", err)
				}
				if err := bindOnce(unix.SOCK_DGRAM, foreign, failingPort); err != unix.EADDRNOTAVAIL {
					return fmt.Errorf("the server's UDP bind: %w", err)
				}
				select {
				case <-stop:
					return nil
				case <-time.After(50 * time.Millisecond):
				}
			}
		})
	}()

	missing := func(s scrape) string {
		for _, protocol := range []string{"tcp", "udp"} {
			if _, err := launch.Metrics(s).Sum("sockstate_watched_port_info",
				fmt.Sprintf(`port="%d"`, failingPort), fmt.Sprintf("protocol=%q", protocol), `source="failure"`); err != nil {
				return err.Error()
			}
		}
		return ""
	}
	eventually(t, "the failing server is watched", func() string { return missing(e.scrape(t)) })
	failures := func(s scrape) float64 {
		sum, _ := launch.Metrics(s).Sum("sockstate_bind_failures_total", fmt.Sprintf(`port="%d"`, failingPort), `protocol="tcp"`, `errno="EADDRINUSE"`)
		return sum
	}
	first := failures(e.scrape(t))
	most := 0.0
	for began := time.Now(); time.Since(began) < loadTime(t); time.Sleep(scrapeEvery()) {
		s := e.scrape(t)
		if lost := missing(s); lost != "" {
			t.Fatalf("after %v the failing server is not watched: %s", time.Since(began), lost)
		}
		most = max(most, s.sum(t, "sockstate_watched_port_info", `source="failure"`))
	}
	if last := failures(e.scrape(t)); last <= first {
		t.Errorf("%v failed binds of the server are counted, %v before", last, first)
	}
	if most <= 2 || most > failingPorts {
		t.Errorf("%v ports are watched because binds fail, want more than the server's and %d at most", most, failingPorts)
	}
}
