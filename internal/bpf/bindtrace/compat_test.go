//go:build linux && (amd64 || arm64)

package bindtrace

import (
	"encoding/binary"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/sock"
)

// compatCall is what a 32-bit process calls with port 4840, to exit with the errno.
type compatCall struct {
	op    Op
	calls uint64
	code  []byte
}

// compatELF is a static 32-bit executable of the code.
func compatELF(code []byte) []byte {
	const base, headers = 0x08048000, 52 + 32
	le := binary.LittleEndian
	b := []byte{0x7f, 'E', 'L', 'F', 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	for _, half := range []uint16{2 /* ET_EXEC */, compatMachine} {
		b = le.AppendUint16(b, half)
	}
	for _, word := range []uint32{1, base + headers, 52 /* e_phoff */, 0, compatFlags} {
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
		for _, call := range compatCalls {
			t.Run(call.op.String(), func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "compat")
				if err := os.WriteFile(path, compatELF(call.code), 0o755); err != nil {
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
					want[key] = call.calls
				}
				if got := grown(before, countsOf(t, tr, netns)); !maps.Equal(got, want) {
					t.Errorf("counted %+v, want %+v", got, want)
				}
			})
		}
		checkStats(t, tr)
	})
}
