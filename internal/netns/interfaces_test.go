package netns

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
	vishnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
)

// rtnl is a connection to change the interfaces of ns with.
func rtnl(t *testing.T, ns *kerneltest.NetNS) *netlink.Handle {
	t.Helper()
	h, err := netlink.NewHandleAt(vishnetns.NsHandle(ns.FD()), unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

// link makes an interface and returns its index.
func link(t *testing.T, h *netlink.Handle, l netlink.Link) uint32 {
	t.Helper()
	err := h.LinkAdd(l)
	if errors.Is(err, unix.EOPNOTSUPP) {
		kerneltest.Skip(t, "kernel without %s interfaces", l.Type())
	}
	if err != nil {
		t.Fatalf("add %s %q: %v", l.Type(), l.Attrs().Name, err)
	}
	got, err := h.LinkByName(l.Attrs().Name)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(got.Attrs().Index)
}

// bridge is an interface that every kernel with namespaces is likely to have.
func bridge(name string) netlink.Link {
	return &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}
}

func interfaces(t *testing.T, fd int) *Interfaces {
	t.Helper()
	i := NewInterfaces(fd)
	t.Cleanup(i.Close)
	return i
}

func check(t *testing.T, i *Interfaces, index uint32, want string) {
	t.Helper()
	if got := i.Name(index); got != want {
		t.Errorf("interface %d is %q, want %q", index, got, want)
	}
	if index == 0 {
		return // the kernel is not asked
	}
	if _, err := i.lookup(index); err != nil {
		t.Errorf("interface %d: %v", index, err)
	}
}

func TestNamesInAnotherNamespace(t *testing.T) {
	ns := kerneltest.New(t)
	h := rtnl(t, ns)
	first, second := link(t, h, bridge("first")), link(t, h, bridge("second"))

	i := interfaces(t, ns.FD())
	check(t, i, second, "second")
	check(t, i, first, "first")
	check(t, i, 1, "lo")
}

func TestNamesInTheThreadsOwnNamespace(t *testing.T) {
	ns := kerneltest.New(t)
	index := link(t, rtnl(t, ns), bridge("mine"))
	ns.Do(t, func() { check(t, interfaces(t, 0), index, "mine") })
}

func TestNameOfTheDeviceASocketIsBoundTo(t *testing.T) {
	ns := kerneltest.New(t)
	ns.AddDummy(t, "d0")
	i := interfaces(t, ns.FD())

	ns.Do(t, func() {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := unix.BindToDevice(fd, "d0"); err != nil {
			t.Fatal(err)
		}
		index, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX)
		if err != nil {
			t.Fatal(err)
		}
		check(t, i, uint32(index), "d0")
	})
}

func TestNameIsWhateverTheKernelTook(t *testing.T) {
	ns := kerneltest.New(t)
	h := rtnl(t, ns)
	for _, name := range []string{"x", "fifteen-bytes-x", "\xff\xfe\x01", "a\"b\\c{}", "\u202e", "if", "ifb0", "if1x"} {
		index := link(t, h, bridge(name))
		check(t, interfaces(t, ns.FD()), index, name)
	}
}

func TestNoDeviceHasNoName(t *testing.T) {
	// Nor is the kernel asked for one: there is no such namespace.
	check(t, interfaces(t, -1), 0, "")
}

func TestInterfaceThatIsGoneIsCalledByItsIndex(t *testing.T) {
	ns := kerneltest.New(t)
	h := rtnl(t, ns)
	l := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "gone", Index: 42}}
	if index := link(t, h, l); index != 42 {
		t.Fatalf("got index %d, want 42", index)
	}
	if err := h.LinkDel(l); err != nil {
		t.Fatal(err)
	}

	i := interfaces(t, ns.FD())
	check(t, i, 42, "if42")
	check(t, i, 1<<31-1, "if2147483647")
	check(t, i, 1<<31, "if2147483648")
	check(t, i, 1<<32-1, "if4294967295")
	check(t, i, 1, "lo")
}

func TestNoTwoInterfacesHaveTheSameName(t *testing.T) {
	ns := kerneltest.New(t)
	h := rtnl(t, ns)
	add := func(name string, index int) *netlink.Bridge {
		t.Helper()
		l := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name, Index: index}}
		if got := link(t, h, l); got != uint32(index) {
			t.Fatalf("got index %d, want %d", got, index)
		}
		return l
	}
	add("if42", 7)
	add("if7", 43)
	add("if44", 44)
	add("x#9", 8)
	add("x", 9)
	renamed, other := add("was", 10), add("is", 11)
	for range 20 { // in any order
		i := interfaces(t, ns.FD())
		names := make(map[string]uint32)
		for _, n := range rand.Perm(60) {
			name := i.Name(uint32(n))
			if before, ok := names[name]; ok {
				t.Errorf("interfaces %d and %d are both %q", before, n, name)
			}
			names[name] = uint32(n)
		}
		for index, want := range map[uint32]string{
			1: "lo", 7: "if42#7", 42: "if42", 43: "if7#43", 44: "if44#44", 8: "x#9#8", 9: "x",
		} {
			check(t, i, index, want)
		}
	}

	// Its name goes to another one between two lookups.
	i := interfaces(t, ns.FD())
	check(t, i, 10, "was")
	if err := h.LinkSetName(renamed, "later"); err != nil {
		t.Fatal(err)
	}
	if err := h.LinkSetName(other, "was"); err != nil {
		t.Fatal(err)
	}
	check(t, i, 11, "was#11")
}

func TestNameIsLookedUpOnce(t *testing.T) {
	ns := kerneltest.New(t)
	h := rtnl(t, ns)
	l := bridge("before")
	index := link(t, h, l)

	i := interfaces(t, ns.FD())
	check(t, i, index, "before")
	l.Attrs().Index = int(index)
	if err := h.LinkSetName(l, "after"); err != nil {
		t.Fatal(err)
	}
	check(t, i, index, "before")
	check(t, interfaces(t, ns.FD()), index, "after")
}

func TestInterfaceThatCannotBeLookedUpIsCalledByItsIndex(t *testing.T) {
	i := interfaces(t, -1)
	for index, want := range map[uint32]string{0: "", 1: "if1", 1 << 31: "if2147483648"} {
		if got := i.Name(index); got != want {
			t.Errorf("interface %d is %q, want %q", index, got, want)
		}
	}
	want := "open rtnetlink: bad file descriptor"
	if _, err := i.lookup(1); err == nil || err.Error() != want || !errors.Is(err, unix.EBADF) {
		t.Errorf("got error %v, want %s", err, want)
	}
}

func TestDescriptorThatIsNoNamespaceIsAnError(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()

	i := interfaces(t, int(f.Fd()))
	if got := i.Name(7); got != "if7" {
		t.Errorf("got %q, want %q", got, "if7")
	}
	want := fmt.Sprintf("open rtnetlink: "+
		"failed to set into network namespace %d while creating netlink socket: invalid argument", f.Fd())
	if _, err := i.lookup(7); err == nil || err.Error() != want {
		t.Errorf("got error %v, want %s", err, want)
	}
}

func TestCloseFreesTheSocket(t *testing.T) {
	ns := kerneltest.New(t)
	before := descriptors(t)
	i := NewInterfaces(ns.FD())
	check(t, i, 1, "lo")
	if open := descriptors(t); open != before+1 {
		t.Fatalf("got %d descriptors, want %d", open, before+1)
	}
	i.Close()
	i.Close()
	if open := descriptors(t); open != before {
		t.Errorf("got %d descriptors, want %d", open, before)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func BenchmarkName(b *testing.B) {
	ns := kerneltest.New(b)
	for b.Loop() {
		i := NewInterfaces(ns.FD())
		i.Name(1)
		i.Close()
	}
}
