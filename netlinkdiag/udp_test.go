package netlinkdiag_test

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/netlinkdiag"
)

// When a receiver does not read, its queue fills. Each datagram that does not fit counts as
// one drop.
func TestUDPReceiveQueueAndDrops(t *testing.T) {
	const sent = 64
	for _, c := range []struct {
		name                string
		local, sender, peer netip.AddrPort
	}{
		{"unconnected_v4", addr("127.0.0.1:4840"), addr("127.0.0.1:4841"), addr("0.0.0.0:0")},
		{"connected_v4", addr("127.0.0.1:4840"), addr("127.0.0.1:4841"), addr("127.0.0.1:4841")},
		{"unconnected_v6", addr("[::1]:4840"), addr("[::1]:4841"), addr("[::]:0")},
		{"connected_v6", addr("[::1]:4840"), addr("[::1]:4841"), addr("[::1]:4841")},
	} {
		t.Run(c.name, func(t *testing.T) {
			ns := kerneltest.New(t)
			sender := ns.DialUDP(t, c.sender, c.local, kerneltest.Options{})
			receiver := udpReceiver(t, ns, c.local, c.peer)
			if err := unix.SetsockoptInt(receiver.FD(), unix.SOL_SOCKET, unix.SO_RCVBUF, 1); err != nil {
				t.Fatal(err) // the kernel makes it SOCK_MIN_RCVBUF
			}
			conn := dialNetNS(t, ns)
			look := func() netlinkdiag.Socket {
				t.Helper()
				got := mustDump(t, conn, netlinkdiag.Request{
					Protocol: udp, Extensions: netlinkdiag.ExtensionSKMemInfo,
					Ports: netlinkdiag.PortFilter{Local: []netlinkdiag.PortRange{netlinkdiag.Port(4840)}},
				})
				if len(got) != 1 || got[0].Local != c.local || got[0].Remote != c.peer || !got[0].HasMem {
					t.Fatalf("reported %+v, want one socket from %v to %v with its memory", got, c.local, c.peer)
				}
				return got[0]
			}
			if s := look(); s.RQueue != 0 || s.Mem.Drops != 0 {
				t.Fatalf("%d bytes queued and %d drops before anything was sent", s.RQueue, s.Mem.Drops)
			}
			for range sent {
				if _, err := unix.Write(sender.FD(), []byte("x")); err != nil {
					t.Fatal(err)
				}
			}
			// The bytes in the queue include all overhead.
			awaitSocket(t, look, func(s netlinkdiag.Socket) bool {
				return s.Mem.Drops > 0 && s.RQueue > 0 && s.RQueue == s.Mem.RmemAlloc
			})
			read := 0
			empty := awaitSocket(t, look, func(s netlinkdiag.Socket) bool {
				read += drain(t, receiver)
				return read+int(s.Mem.Drops) >= sent && s.RQueue == 0
			})
			if got := read + int(empty.Mem.Drops); got != sent {
				t.Errorf("%d read and %d dropped, want %d together", read, empty.Mem.Drops, sent)
			}
		})
	}
}

func udpReceiver(t *testing.T, ns *kerneltest.NetNS, local, peer netip.AddrPort) *kerneltest.Socket {
	t.Helper()
	if peer.Port() != 0 {
		return ns.DialUDP(t, local, peer, kerneltest.Options{})
	}
	return ns.ListenUDP(t, local, kerneltest.Options{})
}

// awaitSocket waits until the socket is as wanted.
func awaitSocket(t *testing.T, look func() netlinkdiag.Socket, wanted func(netlinkdiag.Socket) bool) netlinkdiag.Socket {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(time.Millisecond) {
		s := look()
		if wanted(s) {
			return s
		}
		if time.Now().After(deadline) {
			t.Fatalf("in the end there is %+v", s)
		}
	}
}

// drain reads the queue, and returns the number of datagrams.
func drain(t *testing.T, s *kerneltest.Socket) (n int) {
	t.Helper()
	for {
		_, err := unix.Read(s.FD(), make([]byte, 16))
		switch {
		case err == nil:
			n++
		case errors.Is(err, unix.EAGAIN):
			return n
		default:
			t.Fatal(err)
		}
	}
}
