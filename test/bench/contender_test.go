package bench

import (
	"context"
	"fmt"
	"os/exec"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	vishvananda "github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/netlinkdiag"
)

// A contender is one way to ask for the sockets.
type contender struct {
	name string
	run  func(context.Context) error

	// check says whether the latest run got what it should, untimed.
	check func() error

	// cpu is the user and system time that whoever does the work has had so far.
	cpu func() (time.Duration, error)
	// alone says that it does nothing else, so that what it does between runs counts, too.
	alone bool

	// report adds to what the benchmark reports; it may be nil.
	report func(*testing.B)
}

// saw is the check of a contender that counts; slack is by how much it may be off, besides
// the one in a hundred thousand that waits in FIN_WAIT2 for a FIN to be sent again.
func saw(got *int, want, slack int) func() error {
	slack += want / 100_000
	return func() error {
		if *got < want-slack || *got > want+slack {
			return fmt.Errorf("saw %d of %d sockets", *got, want)
		}
		return nil
	}
}

// bare is a receive loop over the requests, one after the other.
func bare(t testing.TB, ns *kerneltest.NetNS, name string, sockets int, requests ...netlink.Message) contender {
	t.Helper()
	l, err := dialBare(ns.FD(), requests)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.conn.Close() })
	return contender{
		name: name,
		run:  l.run,
		check: func() error {
			if l.received < sockets*sizeofTimeWait {
				return fmt.Errorf("received %d bytes, too few for %d sockets", l.received, sockets)
			}
			return nil
		},
		cpu: ownCPU,
	}
}

// dumpPorts is our Conn.Dump for the ports of set, filtered by the kernel or here, and
// counted by port: what the exporter does with it.
func dumpPorts(t testing.TB, ns *kerneltest.NetNS, name string, set watch.Set, inKernel bool, want int) contender {
	t.Helper()
	conn, err := netlinkdiag.Dial(&netlinkdiag.Config{NetNS: ns.FD()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	req := netlinkdiag.Request{States: netlinkdiag.AllStates.Without(netlinkdiag.StateListen)}
	if inKernel {
		for _, p := range set.Ports {
			req.Ports.Local = append(req.Ports.Local, netlinkdiag.Port(p.Number))
		}
	}
	counts := make([]int, len(set.Ports))
	var timeWait int
	return contender{
		name: name,
		run: func(ctx context.Context) error {
			clear(counts)
			for s, err := range conn.Dump(ctx, req) {
				if err != nil {
					return err
				}
				if i, ok := set.Find(s.Local.Port()); ok && s.State == netlinkdiag.StateTimeWait {
					counts[i]++
				}
			}
			timeWait = 0
			for _, n := range counts {
				timeWait += n
			}
			return nil
		},
		check: saw(&timeWait, want, len(set.Ports)),
		cpu:   ownCPU,
	}
}

// mdlayher is netlink.Conn.Execute, IPv4, then IPv6.
func mdlayher(t testing.TB, ns *kerneltest.NetNS, sockets int) contender {
	t.Helper()
	conn, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, &netlink.Config{NetNS: ns.FD()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	var got int
	return contender{
		name: "mdlayher-netlink",
		run: func(ctx context.Context) error {
			stop := interrupt(ctx, conn)
			defer stop()
			got = 0
			for _, family := range []netlinkdiag.Family{netlinkdiag.FamilyIPv4, netlinkdiag.FamilyIPv6} {
				messages, err := conn.Execute(perFamily(family, withoutBoundInactive))
				if err != nil {
					return err
				}
				for _, m := range messages {
					if len(m.Data) > 1 && m.Data[1] == byte(netlinkdiag.StateTimeWait) {
						got++
					}
				}
			}
			return nil
		},
		check: saw(&got, sockets, 0),
		cpu:   ownCPU,
	}
}

// socketDiagTCP is vishvananda/netlink's SocketDiagTCP, IPv4, then IPv6.
func socketDiagTCP(t testing.TB, ns *kerneltest.NetNS, sockets int) contender {
	t.Helper()
	h, err := vishvananda.NewHandleAt(netns.NsHandle(ns.FD()), unix.NETLINK_INET_DIAG)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	var got int
	return contender{
		name: "vishvananda-netlink",
		run: func(context.Context) error {
			got = 0
			for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
				found, err := h.SocketDiagTCP(family)
				if err != nil {
					return err
				}
				for _, s := range found {
					if s.State == uint8(netlinkdiag.StateTimeWait) {
						got++
					}
				}
			}
			return nil
		},
		check: saw(&got, sockets, 0),
		cpu:   ownCPU,
	}
}

// ss is `ss -tan`, its output thrown away, where that is installed.
func ss(t testing.TB, ns *kerneltest.NetNS) []contender {
	t.Helper()
	path, err := exec.LookPath("ss")
	if err != nil {
		t.Logf("without ss: %v", err)
		return nil
	}
	return []contender{{
		name:  "ss",
		run:   func(ctx context.Context) error { return ns.CommandContext(ctx, path, "-tan").Run() },
		check: func() error { return nil },
		cpu:   childrenCPU,
	}}
}

// ownCPU is the CPU time of this process.
func ownCPU() (time.Duration, error) { return cpuClock(unix.CLOCK_PROCESS_CPUTIME_ID) }

// processCPU is that of another one: MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED) in
// include/linux/posix-timers_types.h, which clock_getcpuclockid(3) hands out.
func processCPU(pid int) (time.Duration, error) { return cpuClock(^int32(pid)<<3 | 2) }

func cpuClock(id int32) (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(id, &t); err != nil {
		return 0, fmt.Errorf("read CPU clock: %w", err)
	}
	return time.Duration(t.Nano()), nil
}

// childrenCPU is that of the children that have ended.
func childrenCPU() (time.Duration, error) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_CHILDREN, &u); err != nil {
		return 0, fmt.Errorf("getrusage: %w", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}
