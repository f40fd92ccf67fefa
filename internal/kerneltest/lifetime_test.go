package kerneltest_test

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/timewait"
)

func TestMain(m *testing.M) {
	if what := os.Getenv(kerneltest.HelperEnv); what != "" {
		helperMain(what)
	}
	kerneltest.Main(m)
}

// helperMain is what a helper process does. It does not return.
func helperMain(what string) {
	switch what {
	case "sleep":
		sleep()
	case "netns":
		link, err := os.Readlink("/proc/self/ns/net")
		fmt.Println(link, err)
	case "uid":
		fmt.Println(os.Getuid(), os.Getgid())
	case "leave":
		if err := leave(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		sleep()
	}
	os.Exit(0)
}

// sleep does not return. Without cgo the runtime reports select {} as a deadlock, and exits.
func sleep() {
	for {
		time.Sleep(time.Hour)
	}
}

// leave fills a namespace with all that this package makes, starts a child there
// and prints its process id.
func leave() error {
	ns, err := kerneltest.Open()
	if err != nil {
		return err
	}
	if err := fill(ns); err != nil {
		return err
	}
	cmd := ns.CommandContext(context.Background(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), kerneltest.HelperEnv+"=sleep")
	if err := cmd.Start(); err != nil {
		return err
	}
	fmt.Println(cmd.Process.Pid)
	return nil
}

// fill makes sockets of all kinds, which stay open.
func fill(ns *kerneltest.NetNS) error {
	for _, k := range kerneltest.Kinds {
		l, err := ns.OpenListener(netip.AddrPortFrom(netip.MustParseAddr(k.Addr), 0), kerneltest.Options{V6Only: k.V6Only})
		if err != nil {
			return err
		}
		for _, state := range kerneltest.States() {
			if state == kerneltest.StateListen {
				continue
			}
			if _, err := l.OpenPeers(state, 2, netip.MustParseAddr(k.From)); err != nil {
				return err
			}
		}
	}
	return timewait.Make(ns, timewait.Options{Ports: []uint16{4840}, Count: 1000})
}

func TestNothingStaysOfAKilledProcess(t *testing.T) {
	watcher := kerneltest.New(t)
	helper := watcher.Command(t, "/proc/self/exe")
	helper.Env = append(os.Environ(), kerneltest.HelperEnv+"=leave")
	stdout, err := helper.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := helper.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("helper said %q: %v", line, err)
	}
	var child int
	if _, err := fmt.Sscan(line, &child); err != nil {
		t.Fatalf("helper said %q: %v", line, err)
	}

	// An id for the namespace does not keep it alive.
	if err := nameNS(watcher, fmt.Sprintf("/proc/%d/ns/net", child)); err != nil {
		t.Fatal(err)
	}
	if !kerneltest.Alive(child) {
		t.Fatal("child has ended already")
	}
	if n := namedNS(t, watcher); n != 1 {
		t.Fatalf("%d namespaces alive, want 1", n)
	}

	helper.Kill()

	kerneltest.Eventually(t, "child process ends", func() bool { return !kerneltest.Alive(child) })
	kerneltest.Eventually(t, "namespace is removed", func() bool { return namedNS(t, watcher) == 0 })
}

func TestDescriptorsAreClosed(t *testing.T) {
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	var before, during int
	for i := range 2 { // the first round opens what the Go runtime keeps
		before = open()
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			ns := kerneltest.New(t)
			for _, k := range kerneltest.Kinds {
				l := ns.Listen(t, netip.AddrPortFrom(netip.MustParseAddr(k.Addr), 0), kerneltest.Options{V6Only: k.V6Only})
				for _, state := range kerneltest.States() {
					if state != kerneltest.StateListen {
						l.Peers(t, state, 2, netip.MustParseAddr(k.From))
					}
				}
				l.Queue(t, 2, netip.MustParseAddr(k.From))
			}
			udp := ns.ListenUDP(t, netip.MustParseAddrPort("127.0.0.1:0"), kerneltest.Options{})
			ns.DialUDP(t, netip.MustParseAddrPort("127.0.0.1:0"), udp.Addr(), kerneltest.Options{})
			timewait.MustMake(t, ns, timewait.Options{Ports: []uint16{4840}, Count: 1000})
			during = open()
		})
	}
	if during <= before {
		t.Errorf("%d descriptors while sockets are open, %d before", during, before)
	}
	if after := open(); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

// nameNS gives the namespace at path an id in this one.
func nameNS(n *kerneltest.NetNS, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	h, err := netlink.NewHandleAt(netns.NsHandle(n.FD()), unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	return h.SetNetNsIdByFd(int(f.Fd()), 1)
}

// namedNS counts the namespaces that have an id in this one and still exist.
func namedNS(t *testing.T, n *kerneltest.NetNS) int {
	t.Helper()
	var ids [][]byte
	err := n.Run(func() (err error) {
		req := nl.NewNetlinkRequest(unix.RTM_GETNSID, unix.NLM_F_DUMP)
		req.AddData(nl.NewRtGenMsg())
		ids, err = req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNSID)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return len(ids)
}
