package stack

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/timewait"
	"sockstate_exporter/internal/sock"
)

func TestMain(m *testing.M) { kerneltest.Main(m) }

var (
	localhost4 = netip.MustParseAddr("127.0.0.1")
	localhost6 = netip.MustParseAddr("::1")
)

// readIn reads the Stats of ns. The kernel must have every value.
func readIn(t *testing.T, r *Reader, ns *kerneltest.NetNS) Stats {
	t.Helper()
	var s Stats
	ns.Do(t, func() {
		t.Helper()
		var err error
		if s, err = r.Read(); err != nil {
			t.Fatal(err)
		}
	})
	return s
}

func newReader(t *testing.T) *Reader {
	t.Helper()
	r, err := NewReader("/proc")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// countTimeWait counts them in /proc/net/tcp and tcp6, line by line.
func countTimeWait(t *testing.T, ns *kerneltest.NetNS) uint64 {
	t.Helper()
	const stateField, timeWait = 3, "06"
	n := uint64(0)
	ns.Do(t, func() {
		for _, name := range []string{"tcp", "tcp6"} {
			f, err := os.Open("/proc/thread-self/net/" + name)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			lines := bufio.NewScanner(f)
			for lines.Scan() {
				if strings.Fields(lines.Text())[stateField] == timeWait {
					n++
				}
			}
			if err := lines.Err(); err != nil {
				t.Fatal(err)
			}
		}
	})
	return n
}

func TestFreshNamespace(t *testing.T) {
	ns := kerneltest.New(t)
	ns.Sysctl(t, "net.ipv4.tcp_max_tw_buckets", "4096")
	got := readIn(t, newReader(t), ns)
	if !got.Memory.OK || !got.Orphans.OK {
		t.Errorf("memory %v and orphans %v, which every namespace shows", got.Memory, got.Orphans)
	}
	got.Memory, got.Orphans = Value{}, Value{} // of the host
	want := Stats{
		Sockets:           known(0),
		LocalPorts:        sock.PortRange{First: 32768, Last: 60999},
		TimeWait:          known(0),
		TimeWaitLimit:     known(4096),
		TimeWaitOverflows: known(0),
		ListenOverflows:   known(0),
		ListenDrops:       known(0),
		EphemeralPorts:    known(60999 - 32768 + 1),
	}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestTimeWaitCountsBothFamilies(t *testing.T) {
	ns, other := kerneltest.New(t), kerneltest.New(t)
	l := ns.Listen(t, netip.AddrPortFrom(netip.IPv6Unspecified(), 4840), kerneltest.Options{})
	timewait.MustMake(t, ns, timewait.Options{Count: 20, Ports: []uint16{80}, Addr: localhost4})
	timewait.MustMake(t, ns, timewait.Options{Count: 31, Ports: []uint16{80}, Addr: localhost6})
	timewait.MustMake(t, ns, timewait.Options{Count: 4, Listeners: []*kerneltest.Listener{l}, Client: localhost4})

	r := newReader(t)
	if got, want := readIn(t, r, ns).TimeWait, known(countTimeWait(t, ns)); got != want || got != known(20+31+4) {
		t.Errorf("got %v, want %v as /proc/net/tcp{,6} have it, and 55", got, want)
	}
	if got := readIn(t, r, other).TimeWait; got != known(0) {
		t.Errorf("got %v in another namespace, want 0", got)
	}
}

func TestTimeWaitCountsOrphanedFinWait2(t *testing.T) {
	ns := kerneltest.New(t)
	l := ns.Listen(t, netip.AddrPortFrom(localhost4, 4840), kerneltest.Options{})
	for _, p := range l.Peers(t, kerneltest.StateFinWait2, 3, localhost4) {
		if err := p.Local.Orphan(); err != nil {
			t.Fatal(err)
		}
	}
	if got := readIn(t, newReader(t), ns).TimeWait; got != known(3) {
		t.Errorf("got %v, want 3", got)
	}
	if got := countTimeWait(t, ns); got != 0 {
		t.Errorf("%d of them are in TIME_WAIT, want none", got)
	}
}

// The kernel counts orphans and memory for the whole host.
func TestOrphansAreThoseOfTheHost(t *testing.T) {
	ns, other := kerneltest.New(t), kerneltest.New(t)
	l := ns.Listen(t, netip.AddrPortFrom(localhost4, 4840), kerneltest.Options{})
	for _, p := range l.Peers(t, kerneltest.StateFinWait1, 5, localhost4) {
		if err := p.Local.Orphan(); err != nil {
			t.Fatal(err)
		}
	}
	if got := readIn(t, newReader(t), other).Orphans; !got.OK || got.V < 5 {
		t.Errorf("%v orphans in another namespace, want 5 or more", got)
	}
}

func TestTimeWaitOverflows(t *testing.T) {
	ns := kerneltest.New(t)
	ns.Sysctl(t, "net.ipv4.tcp_max_tw_buckets", "3")
	l := ns.Listen(t, netip.AddrPortFrom(localhost4, 4840), kerneltest.Options{})
	for _, p := range l.Peers(t, kerneltest.StateFinWait2, 10, localhost4) {
		if err := p.Local.Orphan(); err != nil {
			t.Fatal(err)
		}
	}
	got := readIn(t, newReader(t), ns)
	if got.TimeWait != known(3) || got.TimeWaitLimit != known(3) || got.TimeWaitOverflows != known(7) {
		t.Errorf("got %+v, want 3 in TIME_WAIT, a limit of 3, 7 overflows", got)
	}
}

func TestListenOverflowsAndDrops(t *testing.T) {
	ns := kerneltest.New(t)
	l := ns.Listen(t, netip.AddrPortFrom(localhost4, 4840), kerneltest.Options{Backlog: 1})
	l.Queue(t, 2, localhost4) // sk_acceptq_is_full takes one more than the backlog
	const refused = 5
	ns.Do(t, func() {
		for range refused {
			// Closed at once, so that it sends no second SYN.
			connectAndClose(t, l.Port())
		}
	})

	got := readIn(t, newReader(t), ns)
	if got.ListenOverflows != known(refused) || got.ListenDrops != known(refused) {
		t.Errorf("got %+v, want %d overflows and drops", got, refused)
	}
}

func connectAndClose(t *testing.T, port uint16) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(port), Addr: localhost4.As4()}); err != unix.EINPROGRESS {
		t.Fatalf("connect: got %v, want %v", err, unix.EINPROGRESS)
	}
}

func TestListenDropsWithoutOverflow(t *testing.T) {
	ns := kerneltest.New(t)
	ns.Sysctl(t, "net.ipv4.tcp_syncookies", "0")
	ns.Sysctl(t, "net.ipv4.tcp_max_syn_backlog", "4")
	l := ns.Listen(t, netip.AddrPortFrom(localhost4, 4840), kerneltest.Options{})
	l.Peers(t, kerneltest.StateSynRecv, 4, localhost4)
	ns.Do(t, func() { connectAndClose(t, l.Port()) })

	got := readIn(t, newReader(t), ns)
	if got.ListenOverflows != known(0) || got.ListenDrops != known(1) {
		t.Errorf("got %+v, want no overflow and 1 drop", got)
	}
}

// everySecond lists n ports.
func everySecond(first, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%d,", first+2*i)
	}
	return strings.TrimSuffix(b.String(), ",")
}

func TestEphemeralPorts(t *testing.T) {
	for _, tt := range []struct {
		name, ports, reserved string
		want                  uint64
	}{
		{"none reserved", "40000 40999", "", 1000},
		{"one port", "40000 40000", "", 1},
		{"some reserved", "40000 40999", "8080,40000-40009,40500,40995-41005", 1000 - 10 - 1 - 5},
		{"port 0 reserved", "40000 40999", "0", 1000},
		{"all reserved", "40000 40999", "1-65535", 0},
		{"more than 128 bytes reserved", "20000 30000", everySecond(20000, 100), 10001 - 100},
		{"more than 512 bytes reserved", "20000 30000", everySecond(20000, 600), 10001 - 600},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns := kerneltest.New(t)
			ns.Sysctl(t, "net.ipv4.ip_local_port_range", tt.ports)
			ns.Sysctl(t, "net.ipv4.ip_local_reserved_ports", tt.reserved)
			if got := readIn(t, newReader(t), ns).EphemeralPorts; got != known(tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// The longest list fits neither one write nor a small read.
func TestEphemeralPortsWithEverySecondReserved(t *testing.T) {
	ns := kerneltest.New(t)
	ns.Sysctl(t, "net.ipv4.ip_local_port_range", "1024 65535")
	ns.Do(t, func() {
		f, err := os.OpenFile("/proc/sys/net/ipv4/ip_local_reserved_ports", os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		const ports = 512
		for first := 1; first < 65535; first += 2 * ports {
			// At another offset than 0 it is added to the list.
			if _, err := f.WriteString(everySecond(first, ports)); err != nil {
				t.Fatal(err)
			}
		}
	})
	if got := readIn(t, newReader(t), ns).EphemeralPorts; got != known((65536-1024)/2) {
		t.Errorf("got %v, want %v", got, (65536-1024)/2)
	}
}

func TestNegativeTimeWaitLimitIsUnknown(t *testing.T) {
	ns := kerneltest.New(t)
	ns.Sysctl(t, "net.ipv4.tcp_max_tw_buckets", "-5")
	ns.Do(t, func() {
		s, err := newReader(t).Read()
		want := `read net.ipv4.tcp_max_tw_buckets: got "-5", want one number, 0 or more`
		if err == nil || err.Error() != want {
			t.Errorf("got error %v, want %s", err, want)
		}
		if s.TimeWaitLimit.OK || !s.TimeWait.OK {
			t.Errorf("got %+v, want no limit and the rest", s)
		}
	})
}

func BenchmarkRead(b *testing.B) {
	r, err := NewReader("/proc")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Read(); err != nil {
			b.Fatal(err)
		}
	}
}

func TestKernelCountsSocketsOfBothFamilies(t *testing.T) {
	ns := kerneltest.New(t)
	reader, err := NewReader("/proc")
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, want uint64) {
		t.Helper()
		var got uint64
		err := ns.Run(func() (err error) {
			got, err = reader.TCPSockets()
			return err
		})
		if err != nil || got != want {
			t.Errorf("%s: %d, %v, want %d", what, got, err, want)
		}
	}
	check("none", 0)
	v4 := ns.Listen(t, netip.MustParseAddrPort("127.0.0.1:80"), kerneltest.Options{})
	check("a listener", 1)
	v6 := ns.Listen(t, netip.MustParseAddrPort("[::]:81"), kerneltest.Options{})
	check("and one of IPv6", 2)
	ns.Listen(t, netip.MustParseAddrPort("127.0.0.1:82"), kerneltest.Options{MPTCP: true})
	check("and one of MPTCP", 3)
	ns.Bind(t, netip.MustParseAddrPort("127.0.0.1:83"), kerneltest.Options{})
	check("a bound one does not count", 3)
	v4.Peers(t, kerneltest.StateEstablished, 1, netip.MustParseAddr("127.0.0.1"))
	check("a connection has two ends", 5)
	v6.Peers(t, kerneltest.StateTimeWait, 1, netip.MustParseAddr("127.0.0.1"))
	check("one end stays in TIME_WAIT", 6)
}
