package kerneltest

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// helperEnv makes the test binary a helper process of a test.
const helperEnv = "SOCKSTATE_KERNELTEST_HELPER"

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

// sleep does not return. Without cgo the runtime would call select {} a deadlock, and exit.
func sleep() {
	for {
		time.Sleep(time.Hour)
	}
}

// leave fills a namespace with all that this package makes, and prints the
// process id of a child in there.
func leave() error {
	ns, err := Open()
	if err != nil {
		return err
	}
	if err := fill(ns); err != nil {
		return err
	}
	cmd := ns.CommandContext(context.Background(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), helperEnv+"=sleep")
	if err := cmd.Start(); err != nil {
		return err
	}
	fmt.Println(cmd.Process.Pid)
	return nil
}

// fill makes sockets of all kinds, which stay open.
func fill(ns *NetNS) error {
	for _, k := range kinds {
		l, err := ns.OpenListener(netip.AddrPortFrom(netip.MustParseAddr(k.addr), 0), Options{V6Only: k.v6only})
		if err != nil {
			return err
		}
		for _, state := range States() {
			if state == StateListen {
				continue
			}
			if _, err := l.OpenPeers(state, 2, netip.MustParseAddr(k.from)); err != nil {
				return err
			}
		}
	}
	return MakeTimeWait(ns, TimeWaitOptions{Ports: []uint16{4840}, Count: 1000})
}

func TestNothingStaysOfAKilledProcess(t *testing.T) {
	watcher := New(t)
	helper := watcher.Command(t, "/proc/self/exe")
	helper.Env = append(os.Environ(), helperEnv+"=leave")
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

	// A namespace id is a name that does not keep the namespace.
	if err := watcher.nameNS(fmt.Sprintf("/proc/%d/ns/net", child)); err != nil {
		t.Fatal(err)
	}
	if !alive(child) {
		t.Fatal("child has ended already")
	}
	if n := watcher.namedNS(t); n != 1 {
		t.Fatalf("%d namespaces alive, want 1", n)
	}

	helper.Kill()

	eventually(t, "child process ends", func() bool { return !alive(child) })
	eventually(t, "namespace is removed", func() bool { return watcher.namedNS(t) == 0 })
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
			ns := New(t)
			for _, k := range kinds {
				l := ns.Listen(t, netip.AddrPortFrom(netip.MustParseAddr(k.addr), 0), Options{V6Only: k.v6only})
				for _, state := range States() {
					if state != StateListen {
						l.Peers(t, state, 2, netip.MustParseAddr(k.from))
					}
				}
				l.Queue(t, 2, netip.MustParseAddr(k.from))
			}
			udp := ns.ListenUDP(t, netip.MustParseAddrPort("127.0.0.1:0"), Options{})
			ns.DialUDP(t, netip.MustParseAddrPort("127.0.0.1:0"), udp.Addr(), Options{})
			ns.TimeWait(t, TimeWaitOptions{Ports: []uint16{4840}, Count: 1000})
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
func (n *NetNS) nameNS(path string) error {
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
func (n *NetNS) namedNS(t *testing.T) int {
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

// alive reports whether a process runs; one that only waits to be reaped, by
// an init that may not care, does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z") && !strings.HasPrefix(state, "X")
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after a minute", what)
		}
	}
}
