package sockwalk_test

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"sockstate_exporter/internal/bpf/sockwalk"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/timewait"
	"sockstate_exporter/internal/sock"
)

// While sockets come, the kernel's own count before a walk and after it are bounds of what it shows. A
// few may be on their way into TIME_WAIT.
func TestChurn(t *testing.T) {
	t.Run("table of the host", func(t *testing.T) { testChurn(t, kerneltest.New(t), 30) })
	t.Run("small table", func(t *testing.T) {
		parent := kerneltest.New(t)
		parent.Sysctl(t, "net.ipv4.tcp_child_ehash_entries", "128")
		testChurn(t, parent.NewChild(t), 10)
	})
}

func testChurn(t *testing.T, ns *kerneltest.NetNS, batches byte) {
	t.Helper()
	const slack = 32
	w := newWalker(t, sockwalk.Options{})
	quiet := kerneltest.New(t)
	const still = 500
	timewait.MustMake(t, quiet, timewait.Options{Ports: []uint16{port}, Count: still})
	l := ns.Listen(t, netip.AddrPortFrom(v4any, port), kerneltest.Options{ReuseAddr: true})
	req := sockwalk.Request{Namespaces: []sockwalk.Namespace{of(t, ns, port), of(t, quiet, port)}}

	var making sync.WaitGroup
	done := make(chan struct{})
	making.Go(func() {
		defer close(done)
		// Long before a socket's minute in TIME_WAIT is over.
		deadline := time.Now().Add(4 * time.Second)
		for i := byte(1); i <= batches && time.Now().Before(deadline); i++ {
			batch := timewait.Options{Listeners: []*kerneltest.Listener{l}, Count: 2000, Client: netip.AddrFrom4([4]byte{127, 2, i, 1})}
			if err := timewait.Make(ns, batch); err != nil {
				t.Error(err)
				return
			}
		}
	})
	// Other namespaces come and go, with sockets on the same port.
	making.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if err := comeAndGo(); err != nil {
				t.Error(err)
				return
			}
		}
	})
	walks, again := 0, uint64(0)
	for running := true; running && !t.Failed(); walks++ {
		select {
		case <-done:
			running = false
		default:
		}
		before := timeWait(t, ns)
		got, result := walk(t, w, req)
		after := timeWait(t, ns)
		again += result.Again
		var moving, unmoved uint64
		for s, n := range got {
			switch {
			case s.namespace == 1:
				unmoved += n
			case s.kind == sock.KindTimeWait:
				moving += n
			}
		}
		if moving+slack < before || moving > after+slack {
			t.Errorf("%d sockets in TIME_WAIT, want %d to %d", moving, before, after)
		}
		if unmoved != still {
			t.Errorf("%d sockets in the quiet namespace, want %d", unmoved, still)
		}
	}
	making.Wait()
	if t.Failed() {
		return
	}
	t.Logf("%d walks, %d chains were read again", walks, again)
	check(t, w, req, ns, quiet)
}

func timeWait(t testing.TB, ns *kerneltest.NetNS) uint64 {
	t.Helper()
	n, err := ns.TimeWaitCount()
	if err != nil {
		t.Fatal(err)
	}
	return uint64(n)
}

func comeAndGo() error {
	ns, err := kerneltest.Open()
	if err != nil {
		return err
	}
	defer ns.Close()
	l, err := ns.OpenListener(netip.AddrPortFrom(v4any, port), kerneltest.Options{})
	if err != nil {
		return err
	}
	defer l.Close()
	peers, err := l.OpenPeers(kerneltest.StateEstablished, 3, v4lo)
	for _, p := range peers {
		_ = p.Close()
	}
	return err
}

// The namespaces that a walk is about go while it runs. What it shows of them is what was there.
func TestNamespacesGoInMidWalk(t *testing.T) {
	w := newWalker(t, sockwalk.Options{Steps: 1})
	ns := kerneltest.New(t)
	timewait.MustMake(t, ns, timewait.Options{Ports: []uint16{port}, Count: 1000})
	for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline); {
		req := sockwalk.Request{Namespaces: []sockwalk.Namespace{of(t, ns, port)}}
		var others []*kerneltest.NetNS
		for range 4 {
			other := kerneltest.New(t)
			timewait.MustMake(t, other, timewait.Options{Ports: []uint16{port}, Count: 50})
			others, req.Namespaces = append(others, other), append(req.Namespaces, of(t, other, port))
		}
		var closing sync.WaitGroup
		closing.Go(func() {
			for _, other := range others {
				_ = other.Close()
			}
		})
		for range 3 {
			got, _ := walk(t, w, req)
			count := make(map[int]uint64)
			for s, n := range got {
				count[s.namespace] += n
			}
			for i := range req.Namespaces {
				if i > 0 && count[i] > 50 || i == 0 && count[i] != 1000 {
					t.Errorf("namespace %d: %d sockets", i, count[i])
				}
			}
		}
		closing.Wait()
	}
}
