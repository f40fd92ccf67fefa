//go:build linux

package bindtrace

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"runtime"
	"testing"
	"unsafe" //nolint:depguard // io_uring wants addresses

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
)

// IORING_OP_BIND of include/uapi/linux/io_uring.h, since Linux 6.11.
const uringBind = 56

var errNoRing = errors.New("the kernel has no io_uring, or none that can bind")

// bindByRing binds by io_uring.
func bindByRing(t *testing.T, fd int, sockaddr []byte) error {
	t.Helper()
	const entries, paramsSize, sqeSize, cqeSize = 1, 120, 64, 16
	native := binary.NativeEndian
	params := make([]byte, paramsSize)
	ringFD, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, entries, uintptr(unsafe.Pointer(&params[0])), 0)
	if errno == unix.ENOSYS || errno == unix.EPERM {
		return errNoRing
	}
	if errno != 0 {
		t.Fatalf("io_uring_setup: %v", errno)
	}
	defer unix.Close(int(ringFD))
	const sqOff, cqOff = 40, 80 // of struct io_uring_params
	sq := func(n int) uint32 { return native.Uint32(params[sqOff+4*n:]) }
	cq := func(n int) uint32 { return native.Uint32(params[cqOff+4*n:]) }
	const tail, array, cqes = 1, 6, 5 // fields of struct io_sqring_offsets and io_cqring_offsets
	size := max(sq(array)+4*native.Uint32(params), cq(cqes)+cqeSize*native.Uint32(params[4:]))
	ring, err := unix.Mmap(int(ringFD), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(ring) }()
	const offsetOfSQEs = 0x10000000
	sqe, err := unix.Mmap(int(ringFD), offsetOfSQEs, sqeSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(sqe) }()

	sqe[0] = uringBind
	native.PutUint32(sqe[4:], uint32(fd))
	native.PutUint64(sqe[8:], uint64(len(sockaddr)))
	native.PutUint64(sqe[16:], uint64(uintptr(unsafe.Pointer(&sockaddr[0]))))
	native.PutUint32(ring[sq(array):], 0)
	native.PutUint32(ring[sq(tail):], 1)
	const getEvents = 1
	if n, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, ringFD, 1, 1, getEvents, 0, 0); errno != 0 || n != 1 {
		t.Fatalf("io_uring_enter took %d: %v", n, errno)
	}
	runtime.KeepAlive(sockaddr)
	if native.Uint32(ring[cq(tail):]) != 1 {
		t.Fatal("nothing is done")
	}
	result := int32(native.Uint32(ring[cq(cqes)+8:]))
	switch {
	case result == -int32(unix.EINVAL):
		return errNoRing
	case result < 0:
		return unix.Errno(-result)
	}
	return nil
}

// The feature bind_tracing_io_uring says so. Where this fails, say there that they are seen.
func TestBindsByIOUringAreNotSeen(t *testing.T) {
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		ns := kerneltest.New(t)
		at := netip.MustParseAddrPort("127.0.0.1:4000")
		ns.Listen(t, at, kerneltest.Options{})
		fd := -1
		ns.Do(t, func() {
			var err error
			if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
				t.Fatal(err)
			}
		})
		defer unix.Close(fd)
		watchOnly(t, tr, ns, at.Port())
		sockaddr := make([]byte, unix.SizeofSockaddrInet4)
		binary.NativeEndian.PutUint16(sockaddr, unix.AF_INET)
		binary.BigEndian.PutUint16(sockaddr[2:], at.Port())
		copy(sockaddr[4:], at.Addr().AsSlice())
		err := bindByRing(t, fd, sockaddr)
		if errors.Is(err, errNoRing) {
			t.Log(err)
			return
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			t.Fatalf("bind by io_uring: %v, want EADDRINUSE", err)
		}
		if n := total(countsOf(t, tr, uint32(ns.Inode()))); n != 0 {
			t.Errorf("%d failures are counted, want none", n)
		}
		if err := unix.Bind(fd, kerneltest.Sockaddr(at)); !errors.Is(err, unix.EADDRINUSE) {
			t.Fatalf("bind: %v, want EADDRINUSE", err)
		}
		if n := total(countsOf(t, tr, uint32(ns.Inode()))); n != 1 {
			t.Errorf("%d failures are counted, want that of the system call", n)
		}
	})
}
