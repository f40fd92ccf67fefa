//go:build linux

package bindtrace

import (
	"errors"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"unsafe" //nolint:depguard // userfaultfd wants addresses

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
)

// A descriptor that is closed while the kernel reads the sockaddr has no socket when the call
// returns.
func TestFailureOnClosedDescriptorIsUnattributed(t *testing.T) {
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		for _, c := range []struct {
			name string
			call func(fd int, sockaddr []byte) error
			addr netip.Addr
		}{
			{"bind", bindRaw, netip.MustParseAddr("2001:db8::1")},
			{"connect", connectRaw, netip.IPv6Loopback()},
		} {
			t.Run(c.name, func(t *testing.T) {
				ns := kerneltest.New(t)
				ns.Sysctl(t, "net.ipv6.conf.lo.disable_ipv6", "1") // both fail with EADDRNOTAVAIL
				watchOnly(t, tr, ns, testPort)
				page := newLatePage(t)
				before, err := tr.Stats()
				if err != nil {
					t.Fatal(err)
				}

				fds, returned := make(chan int, 1), make(chan error, 1)
				go func() {
					returned <- ns.Run(func() error {
						fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
						fds <- fd
						if err != nil {
							return err
						}
						return c.call(fd, page.memory[:unix.SizeofSockaddrInet6])
					})
				}()
				fd := <-fds
				page.waitForFault(t)
				if err := unix.Close(fd); err != nil {
					t.Error(err)
				}
				page.fill(t, sockaddrOf(c.addr, testPort))
				if err := <-returned; !errors.Is(err, unix.EADDRNOTAVAIL) {
					t.Fatalf("want EADDRNOTAVAIL, got %v", err)
				}

				after, err := tr.Stats()
				if err != nil {
					t.Fatal(err)
				}
				if got := after.Unattributed - before.Unattributed; got != 1 {
					t.Errorf("%d failures unattributed, want 1", got)
				}
				if got := countsOf(t, tr, uint32(ns.Inode())); len(got) != 0 {
					t.Errorf("counted %+v, want nothing", got)
				}
			})
		}
	})
}

// latePage is a page of memory without content until fill is called. Readers wait for it
// (userfaultfd).
type latePage struct {
	memory []byte
	uffd   int
}

// include/uapi/linux/userfaultfd.h
const (
	uffdAPI             = 0xaa
	uffdioAPI           = 0xc018aa3f
	uffdioRegister      = 0xc020aa00
	uffdioCopy          = 0xc028aa03
	uffdRegisterMissing = 1
)

func newLatePage(t *testing.T) *latePage {
	t.Helper()
	uffd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC, 0, 0)
	if errno != 0 {
		kerneltest.Skip(t, "no userfaultfd: %v", errno)
	}
	t.Cleanup(func() { unix.Close(int(uffd)) })
	memory, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(memory) })
	p := &latePage{memory: memory, uffd: int(uffd)}
	p.ioctl(t, uffdioAPI, []uint64{uffdAPI, 0, 0})
	p.ioctl(t, uffdioRegister, []uint64{p.address(), uint64(len(memory)), uffdRegisterMissing, 0})
	return p
}

// waitForFault returns when a thread waits for the page.
func (p *latePage) waitForFault(t *testing.T) {
	t.Helper()
	message := make([]byte, 32) // struct uffd_msg
	if _, err := unix.Read(p.uffd, message); err != nil {
		t.Fatal(err)
	}
}

func (p *latePage) fill(t *testing.T, content []byte) {
	t.Helper()
	source := make([]byte, len(p.memory))
	copy(source, content)
	from := uint64(uintptr(unsafe.Pointer(unsafe.SliceData(source))))
	p.ioctl(t, uffdioCopy, []uint64{p.address(), from, uint64(len(source)), 0, 0})
	runtime.KeepAlive(source)
}

func (p *latePage) address() uint64 {
	return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(p.memory))))
}

func (p *latePage) ioctl(t *testing.T, request uintptr, words []uint64) {
	t.Helper()
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(p.uffd), request, uintptr(unsafe.Pointer(unsafe.SliceData(words))))
	if errno != 0 {
		t.Fatalf("ioctl %#x on userfaultfd: %v", request, errno)
	}
}
