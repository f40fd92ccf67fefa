//go:build linux

package bindtrace

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"unsafe" //nolint:depguard // system calls with arguments that no wrapper would make

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/sock"
)

// target is a kind of socket whose binds are made to fail.
type target struct {
	name             string
	domain, typ      int
	proto            int
	family           sock.Family
	protocol         sock.Protocol
	local, elsewhere netip.Addr
}

// targets are the kinds of socket that this kernel has: tcp and udp always.
func targets(t *testing.T, ns *kerneltest.NetNS) []target {
	t.Helper()
	var all []target
	for _, f := range []target{
		{name: "4", domain: unix.AF_INET, family: sock.FamilyIPv4,
			local: netip.MustParseAddr("127.0.0.1"), elsewhere: netip.MustParseAddr("192.0.2.1")},
		{name: "6", domain: unix.AF_INET6, family: sock.FamilyIPv6,
			local: netip.MustParseAddr("::1"), elsewhere: netip.MustParseAddr("2001:db8::1")},
	} {
		for _, p := range []struct {
			typ, proto int
			protocol   sock.Protocol
			optional   bool
		}{
			{unix.SOCK_STREAM, unix.IPPROTO_TCP, sock.TCP, false},
			{unix.SOCK_DGRAM, unix.IPPROTO_UDP, sock.UDP, false},
			{unix.SOCK_STREAM, unix.IPPROTO_MPTCP, sock.MPTCP, true},
			{unix.SOCK_STREAM, unix.IPPROTO_SCTP, sock.SCTP, true},
			{unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE, sock.OtherProtocol, true},
		} {
			tg := f
			tg.name = p.protocol.String() + f.name
			tg.typ, tg.proto, tg.protocol = p.typ, p.proto, p.protocol
			err := ns.Run(func() error {
				fd, err := unix.Socket(tg.domain, tg.typ, tg.proto)
				if err == nil {
					unix.Close(fd)
				}
				return err
			})
			switch {
			case err == nil:
				all = append(all, tg)
			case p.optional && (errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ESOCKTNOSUPPORT)):
				t.Logf("no %s: %v", tg.name, err)
			default:
				t.Fatalf("open %s socket: %v", tg.name, err)
			}
		}
	}
	return all
}

// open makes a socket in the calling thread's namespace.
func (tg target) open(t *testing.T) int {
	t.Helper()
	fd, err := unix.Socket(tg.domain, tg.typ|unix.SOCK_CLOEXEC, tg.proto)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// openBound makes a socket bound to the local address.
func (tg target) openBound(t *testing.T, port uint16) int {
	t.Helper()
	fd := tg.open(t)
	if err := bindRaw(fd, sockaddrOf(tg.local, port)); err != nil {
		t.Fatal(err)
	}
	return fd
}

// sockaddrOf is a sockaddr_in or sockaddr_in6.
func sockaddrOf(addr netip.Addr, port uint16) []byte {
	var b []byte
	if addr.Is4() {
		b = binary.NativeEndian.AppendUint16(b, unix.AF_INET)
		b = binary.BigEndian.AppendUint16(b, port)
		b = append(b, addr.AsSlice()...)
		return append(b, make([]byte, 8)...)
	}
	b = binary.NativeEndian.AppendUint16(b, unix.AF_INET6)
	b = binary.BigEndian.AppendUint16(b, port)
	b = append(b, 0, 0, 0, 0)
	b = append(b, addr.AsSlice()...)
	return append(b, 0, 0, 0, 0)
}

// bindRaw is bind(2) with any sockaddr, which unix.Bind cannot do; nil is an
// address nothing is mapped at, with the length of a sockaddr_in6.
func bindRaw(fd int, sockaddr []byte) error {
	addr, size := uintptr(1), uintptr(unix.SizeofSockaddrInet6)
	var errno unix.Errno
	if sockaddr == nil {
		_, _, errno = unix.Syscall(unix.SYS_BIND, uintptr(fd), addr, size)
	} else {
		_, _, errno = unix.Syscall(unix.SYS_BIND, uintptr(fd),
			uintptr(unsafe.Pointer(unsafe.SliceData(sockaddr))), uintptr(len(sockaddr)))
	}
	if errno != 0 {
		return errno
	}
	return nil
}

// dropCap takes a capability from the calling thread, which must not be used
// for anything else.
func dropCap(t *testing.T, capability int) {
	t.Helper()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		t.Fatal(err)
	}
	data[capability/32].Effective &^= 1 << (capability % 32)
	if err := unix.Capset(&header, &data[0]); err != nil {
		t.Fatal(err)
	}
}

// answer lets seccomp answer a system call for the calling thread, which must not
// be used for anything else.
func answer(t *testing.T, nr uint32, errno unix.Errno) {
	t.Helper()
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // seccomp_data.nr
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: nr, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(errno)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&prog)), 0, 0)
	if err != nil {
		kerneltest.Skip(t, "no seccomp filters: %v", err)
	}
}
