//go:build linux && amd64

package bindtrace

import (
	"encoding/binary"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/sock"
)

// compatCall is a call of bind or connect by a 32-bit process.
type compatCall struct {
	op         Op
	socketcall byte // its number for socketcall(2)
	nr         byte // its own number, less 0x100
	addr       [4]byte
}

// compatCode calls twice with port 4840, by socketcall(2) and by the system call
// of the i386, and exits with the errno of both, or 1.
func compatCode(call compatCall) []byte {
	return slices.Concat(
		[]byte{0x6a, 0x00, 0x6a, 0x01, 0x6a, 0x02}, // push 0, SOCK_STREAM, AF_INET
		[]byte{0x89, 0xe1},                         // mov %esp, %ecx
		[]byte{0xbb, 0x01, 0x00, 0x00, 0x00},       // mov $SYS_SOCKET, %ebx
		[]byte{0xb8, 0x66, 0x00, 0x00, 0x00},       // mov $__NR_socketcall, %eax
		[]byte{0xcd, 0x80},                         // int $0x80
		[]byte{0x89, 0xc7},                         // mov %eax, %edi

		[]byte{0x6a, 0x00, 0x6a, 0x00},                  // push sin_zero
		append([]byte{0x68}, call.addr[:]...),           // push the address
		[]byte{0x68, 0x02, 0x00, 0x12, 0xe8},            // push AF_INET, 4840
		[]byte{0x89, 0xe6},                              // mov %esp, %esi
		[]byte{0x6a, 0x10, 0x56, 0x57, 0x89, 0xe1},      // push 16, %esi, %edi; mov %esp, %ecx
		[]byte{0xbb, call.socketcall, 0x00, 0x00, 0x00}, // mov $SYS_BIND or $SYS_CONNECT, %ebx
		[]byte{0xb8, 0x66, 0x00, 0x00, 0x00},            // mov $__NR_socketcall, %eax
		[]byte{0xcd, 0x80},                              // int $0x80
		[]byte{0x89, 0xc5},                              // mov %eax, %ebp

		[]byte{0x89, 0xfb, 0x89, 0xf1},          // mov %edi, %ebx; mov %esi, %ecx
		[]byte{0xba, 0x10, 0x00, 0x00, 0x00},    // mov $16, %edx
		[]byte{0xb8, call.nr, 0x01, 0x00, 0x00}, // mov $__NR_bind or $__NR_connect, %eax
		[]byte{0xcd, 0x80},                      // int $0x80

		[]byte{0x89, 0xc3, 0x29, 0xe8, 0x75, 0x09}, // mov %eax, %ebx; sub %ebp, %eax; jne 1f
		[]byte{0xf7, 0xdb},                         // neg %ebx
		[]byte{0xb8, 0x01, 0x00, 0x00, 0x00},       // mov $__NR_exit, %eax
		[]byte{0xcd, 0x80},                         // int $0x80
		[]byte{0xbb, 0x01, 0x00, 0x00, 0x00},       // 1: mov $1, %ebx
		[]byte{0xb8, 0x01, 0x00, 0x00, 0x00},       // mov $__NR_exit, %eax
		[]byte{0xcd, 0x80},                         // int $0x80
	)
}

// compatELF is a static i386 executable of the code.
func compatELF(code []byte) []byte {
	const base, headers = 0x08048000, 52 + 32
	le := binary.LittleEndian
	b := []byte{0x7f, 'E', 'L', 'F', 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	for _, half := range []uint16{2 /* ET_EXEC */, 3 /* EM_386 */} {
		b = le.AppendUint16(b, half)
	}
	for _, word := range []uint32{1, base + headers, 52 /* e_phoff */, 0, 0} {
		b = le.AppendUint32(b, word)
	}
	for _, half := range []uint16{52, 32, 1, 0, 0, 0} {
		b = le.AppendUint16(b, half)
	}
	size := uint32(headers + len(code))
	for _, word := range []uint32{1 /* PT_LOAD */, 0, base, base, size, size, 5 /* r-x */, 0x1000} {
		b = le.AppendUint32(b, word)
	}
	return append(b, code...)
}

// fexit and kprobes see 32-bit callers. The syscall tracepoints do not: the kernel leaves
// them out (ARCH_TRACE_IGNORE_COMPAT_SYSCALLS).
func TestCallsOf32BitProcesses(t *testing.T) {
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		for _, call := range []compatCall{
			{OpBind, 2, 0x69, [4]byte{192, 0, 2, 1}},
			{OpConnect, 3, 0x6a, [4]byte{127, 0, 0, 1}},
		} {
			t.Run(call.op.String(), func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "compat")
				if err := os.WriteFile(path, compatELF(compatCode(call)), 0o755); err != nil {
					t.Fatal(err)
				}
				ns := newCramped(t)
				tg := targets(t, ns)[0]
				ns.Do(t, func() {
					tg.listen(t)
					tg.mustExhaust(t)
				})
				watchOnly(t, tr, ns, testPort)
				netns := uint32(ns.Inode())
				before := countsOf(t, tr, netns)
				err := ns.Command(t, path).Run()
				if errors.Is(err, syscall.ENOEXEC) && os.Getenv("SOCKSTATE_GUEST") != "1" {
					t.Logf("this host runs no 32-bit processes, the guests of `make test-kernels` do: %v", err)
					return
				}
				var exit *exec.ExitError
				if !errors.As(err, &exit) || exit.ExitCode() != int(unix.EADDRNOTAVAIL) {
					t.Fatalf("32-bit process: %v, want exit status %d", err, int(unix.EADDRNOTAVAIL))
				}
				want := map[Key]uint64{}
				if tr.Mode() != ModeTracepoint {
					key := Key{Netns: netns, Op: call.op, Family: sock.FamilyIPv4, Protocol: sock.TCP, Errno: unix.EADDRNOTAVAIL}
					if call.op == OpBind {
						key.Port = testPort
					}
					want[key] = 2
				}
				if got := grown(before, countsOf(t, tr, netns)); !maps.Equal(got, want) {
					t.Errorf("counted %+v, want %+v", got, want)
				}
			})
		}
		checkStats(t, tr)
	})
}
