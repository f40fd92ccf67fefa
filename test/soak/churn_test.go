package soak

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
)

const (
	churnRate  = 20_000 // connections a second, of all ports
	churnPorts = 4
	firstPort  = 5000
	// churnBatch are the connections of a port that are open at a time.
	churnBatch = 16
)

// A churn opens and closes connections to one port. The server closes first, so that they are in
// TIME_WAIT there.
type churn struct {
	port   uint16
	opened atomic.Int64
}

// run is inside the namespace, until stop is closed.
func (c *churn) run(stop <-chan struct{}) error {
	listener, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(listener)
	server := &unix.SockaddrInet4{Port: int(c.port), Addr: [4]byte{127, 0, 0, 1}}
	if err := unix.Bind(listener, server); err != nil {
		return err
	}
	if err := unix.Listen(listener, 2*churnBatch); err != nil {
		return err
	}
	began := time.Now()
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		if due := int64(time.Since(began).Seconds() * churnRate / churnPorts); c.opened.Load() >= due {
			time.Sleep(time.Millisecond)
			continue
		}
		if err := c.batch(listener, server); err != nil {
			return err
		}
	}
}

func (c *churn) batch(listener int, server unix.Sockaddr) (err error) {
	var clients []int
	defer func() {
		for _, fd := range clients {
			unix.Close(fd)
		}
	}()
	for range churnBatch {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		clients = append(clients, fd)
		// A source address of its own for each: no two of them are ever the same connection.
		n := c.opened.Add(1)
		source := &unix.SockaddrInet4{Addr: [4]byte{127, byte(1 + n>>16&0x7f), byte(n >> 8), byte(n)}}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
			return err
		}
		if err := unix.Bind(fd, source); err != nil {
			return fmt.Errorf("bind to %v: %w", netip.AddrFrom4(source.Addr), err)
		}
		if err := unix.Connect(fd, server); err != nil {
			return fmt.Errorf("connect: %w", err)
		}
	}
	for range clients {
		fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		unix.Close(fd)
	}
	return nil
}

// timeWaits reads the kernel's own list, /proc/net/tcp, of IPv4.
func timeWaits(t *testing.T, ns *kerneltest.NetNS) map[uint16]int {
	t.Helper()
	var table []byte
	err := ns.Run(func() (err error) {
		table, err = os.ReadFile("/proc/thread-self/net/tcp")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	counts := make(map[uint16]int)
	for line := range bytes.Lines(table) {
		// sl: local_address:port rem_address:port st
		if f := bytes.Fields(line[:min(len(line), 40)]); len(f) > 3 && string(f[3]) == "06" {
			_, port, _ := bytes.Cut(f[1], []byte(":"))
			n, err := strconv.ParseUint(string(port), 16, 16)
			if err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			counts[uint16(n)]++
		}
	}
	return counts
}

func TestCountsStayRightWhileConnectionsComeAndGo(t *testing.T) {
	kerneltest.RequireRoot(t)
	ns := kerneltest.New(t)
	most := "16384"
	if soaking() {
		most = "131072" // the kernel's own default
	}
	ns.Sysctl(t, "net.ipv4.tcp_max_tw_buckets", most)
	e := start(t, ns, 10048)

	churns := make([]*churn, churnPorts)
	stop := make(chan struct{})
	var running sync.WaitGroup
	var failed atomic.Value
	for i := range churns {
		churns[i] = &churn{port: uint16(firstPort + i)}
		running.Go(func() {
			if err := ns.Run(func() error { return churns[i].run(stop) }); err != nil {
				failed.Store(fmt.Errorf("port %d: %w", churns[i].port, err))
			}
		})
	}
	end := sync.OnceFunc(func() { close(stop); running.Wait() })
	t.Cleanup(end)
	eventually(t, "connections come and go", func() string {
		for _, c := range churns {
			if c.opened.Load() < 1000 {
				return fmt.Sprintf("%d on port %d", c.opened.Load(), c.port)
			}
		}
		return ""
	})

	opened := func() (n [churnPorts]int) {
		for i, c := range churns {
			n[i] = int(c.opened.Load())
		}
		return n
	}
	var usages []usage
	var widths []int // of what a count may be, in percent of it
	began, openedBefore := time.Now(), opened()
	for time.Since(began) < loadTime(t) || len(usages) < 9 {
		next := time.Now().Add(scrapeEvery())
		opened0 := opened()
		before := timeWaits(t, ns)
		opened1 := opened()
		s := e.scrape(t)
		opened2 := opened()
		after := timeWaits(t, ns)
		opened3 := opened()
		for i, c := range churns {
			got := int(s.sum(t, "sockstate_tcp_sockets", `family="ipv4"`, fmt.Sprintf(`port="%d"`, c.port), `state="time_wait"`))
			// Whatever the scrape saw was there in the list before, or has come since that
			// began; whatever the list after has, the scrape saw, or it has come since that
			// began. A list is no moment: a socket may be passed over, or met twice, where
			// its chain in the hash table changes meanwhile.
			slack := 2*churnBatch + got/50
			least, mostly := after[c.port]-(opened3[i]-opened1[i])-slack, before[c.port]+(opened2[i]-opened0[i])+slack
			if got < least || got > mostly {
				t.Errorf("port %d has %d sockets in TIME_WAIT; the kernel listed %d before and %d after, so want %d to %d",
					c.port, got, before[c.port], after[c.port], least, mostly)
			}
			widths = append(widths, (mostly-least)*100/max(got, 1))
			if n := s.sum(t, "sockstate_tcp_sockets", `family="ipv4"`, fmt.Sprintf(`port="%d"`, c.port), `state="listen"`); n != 1 {
				t.Errorf("port %d has %v listeners, want 1", c.port, n)
			}
		}
		usages = append(usages, e.usage(t, s))
		if err := failed.Load(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Until(next))
	}
	took := time.Since(began)
	rate := 0
	for i, n := range opened() {
		rate += n - openedBefore[i]
	}
	end()
	if err, ok := failed.Load().(error); ok && !errors.Is(err, unix.EINTR) {
		t.Fatal(err)
	}
	// Now that none come, they only go.
	before := timeWaits(t, ns)
	s := e.scrape(t)
	after := timeWaits(t, ns)
	for _, c := range churns {
		got := int(s.sum(t, "sockstate_tcp_sockets", `family="ipv4"`, fmt.Sprintf(`port="%d"`, c.port), `state="time_wait"`))
		if got < after[c.port] || got > before[c.port] {
			t.Errorf("port %d has %d sockets in TIME_WAIT after the load; the kernel listed %d before and %d after", c.port, got, before[c.port], after[c.port])
		}
	}
	slices.Sort(widths)
	t.Logf("%.0f connections a second; counts were held to within %d %% (median), and %d %% at worst", float64(rate)/took.Seconds(), widths[len(widths)/2], widths[len(widths)-1])
	checkFlat(t, usages)
	logCPU(t, took, usages, 1)
}
