package sockwalk_test

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/sockwalk"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/timewait"
	"sockstate_exporter/internal/sock"
)

// BenchmarkWalk compares a walk with a loop that receives a sock_diag dump of both families and looks at
// nothing: in each iteration one after the other, in CPU time. The sockets live for a minute.
//
// With few sockets first: all namespaces share one table, and a walk passes all of it.
func BenchmarkWalk(b *testing.B) {
	for _, n := range []int{0, 1000, 100_000} {
		ns := kerneltest.New(b)
		if n > 0 {
			timewait.MustMake(b, ns, timewait.Options{Ports: []uint16{port}, Count: n})
		}
		for name, req := range map[string]sockwalk.Namespace{
			"equal":     {Watched: []uint16{port}},
			"elsewhere": {Watched: []uint16{port + 1}},
			// Each socket has a destination of its own, the most expensive case.
			"different": {LocalPorts: sock.PortRange{First: port, Last: port}},
		} {
			id := of(b, ns)
			req.Inode, req.Cookie = id.Inode, id.Cookie
			b.Run(fmt.Sprintf("sockets=%d/%s", n, name), func(b *testing.B) { benchmarkWalk(b, ns, req, n) })
		}
	}
}

func benchmarkWalk(b *testing.B, ns *kerneltest.NetNS, id sockwalk.Namespace, n int) {
	b.Helper()
	w := newWalker(b, sockwalk.Options{})
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	bare := dialBare(b, ns)
	req := sockwalk.Request{Namespaces: []sockwalk.Namespace{id}}
	var walked, received time.Duration
	for b.Loop() {
		start, sockets := cpuTime(b), uint64(0)
		if _, err := w.Walk(b.Context(), req, func(g *sockwalk.Group) { sockets += g.Count }); err != nil {
			b.Fatal(err)
		}
		if want := uint64(n); sockets != want && !slices.Contains(id.Watched, port+1) {
			b.Fatalf("%d sockets, want %d: have they expired?", sockets, n)
		}
		middle := cpuTime(b)
		bare.run(b)
		walked, received = walked+middle-start, received+cpuTime(b)-middle
	}
	b.ReportMetric(float64(walked)/float64(b.N), "walk-cpu-ns")
	b.ReportMetric(float64(received)/float64(b.N), "bare-cpu-ns")
	b.ReportMetric(float64(walked)/float64(received), "walk/bare")
}

// cpuTime is what this thread has used.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		b.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// A bareLoop receives dumps, and looks for their end only.
type bareLoop struct {
	fd  int
	buf []byte
}

func dialBare(b *testing.B, ns *kerneltest.NetNS) *bareLoop {
	b.Helper()
	l := &bareLoop{fd: -1, buf: make([]byte, 64<<10)}
	ns.Do(b, func() {
		var err error
		if l.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_INET_DIAG); err != nil {
			b.Error(err)
		}
	})
	b.Cleanup(func() { _ = unix.Close(l.fd) })
	return l
}

func (l *bareLoop) run(b *testing.B) {
	b.Helper()
	const sockDiagByFamily, sizeofReqV2 = 20, 56
	const states = 1<<sock.NumStates - 2 - 1<<sock.StateListen
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		m := make([]byte, unix.SizeofNlMsghdr+sizeofReqV2)
		native := binary.NativeEndian
		native.PutUint32(m, uint32(len(m)))
		native.PutUint16(m[4:], sockDiagByFamily)
		native.PutUint16(m[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
		m[16], m[17] = family, unix.IPPROTO_TCP
		native.PutUint32(m[20:], states)
		if err := unix.Sendto(l.fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			b.Fatal(err)
		}
		for done := false; !done; {
			n, err := unix.Read(l.fd, l.buf)
			if err != nil || n < unix.SizeofNlMsghdr {
				b.Fatalf("received %d bytes, %v", n, err)
			}
			// The end of a dump has 4 bytes of data, and is the last message of a datagram.
			done = native.Uint16(l.buf[max(0, n-20)+4:]) == unix.NLMSG_DONE
			if native.Uint16(l.buf[4:]) == unix.NLMSG_ERROR {
				b.Fatal("sock_diag refused")
			}
		}
	}
}
