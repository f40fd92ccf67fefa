// Package loaderr finds out why an eBPF program cannot be loaded or attached.
package loaderr

import (
	"bytes"
	"errors"
	"os"
	"strconv"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/sock"
)

// Explain sets Reason, Need and Err of u, whose Reason and Need are those for a kernel that lacks what
// the program uses. It runs only after a failure, so a wrong guess here does not keep a load from being
// tried.
func Explain(u sock.UnavailableError, err error) *sock.UnavailableError {
	_, noBTF := os.Stat("/sys/kernel/btf/vmlinux")
	switch {
	case errors.Is(noBTF, os.ErrNotExist):
		u.Reason, u.Need = sock.ReasonNoBTF, "a kernel built with CONFIG_DEBUG_INFO_BTF"
	case !linux.HasCap(unix.CAP_BPF, unix.CAP_SYS_ADMIN), !linux.HasCap(unix.CAP_PERFMON, unix.CAP_SYS_ADMIN),
		errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES) && !isVerifierError(err):
		u.Reason, u.Need = Denied(err)
	case errors.Is(err, ebpf.ErrNotSupported), errors.Is(err, btf.ErrNotFound), isVerifierError(err):
	default:
		u.Reason, u.Need = sock.ReasonBPFFailed, "eBPF"
	}
	u.Err = err
	return &u
}

func isVerifierError(err error) bool {
	var v *ebpf.VerifierError
	return errors.As(err, &v)
}

// Denied finds out which capability is missing, since the kernel's EPERM does not say. CAP_SYS_ADMIN
// does for each that bpf(2) asks for (bpf_capable, perfmon_capable).
func Denied(err error) (reason, need string) {
	var path *os.PathError
	switch {
	case !linux.HasCap(unix.CAP_BPF, unix.CAP_SYS_ADMIN):
		return sock.ReasonCapBPF, "CAP_BPF"
	case !linux.HasCap(unix.CAP_PERFMON, unix.CAP_SYS_ADMIN):
		return sock.ReasonCapPerfmon, "CAP_PERFMON"
	case errors.As(err, &path):
		return sock.ReasonTracefsDenied, "CAP_DAC_READ_SEARCH to read tracefs"
	case errors.Is(err, unix.EACCES) && PerfParanoid() > 2 && !linux.HasCap(unix.CAP_SYS_ADMIN):
		return sock.ReasonPerfParanoid, "CAP_SYS_ADMIN, or sysctl kernel.perf_event_paranoid=2"
	}
	return sock.ReasonRefused, "eBPF, which is refused here (user namespace, lockdown, LSM or seccomp)"
}

// PerfParanoid returns kernel.perf_event_paranoid. Debian's kernels know values above 2, with
// which perf_event_open wants CAP_SYS_ADMIN.
func PerfParanoid() int {
	text, err := os.ReadFile("/proc/sys/kernel/perf_event_paranoid")
	if err != nil {
		return 0
	}
	level, err := strconv.Atoi(string(bytes.TrimSpace(text)))
	if err != nil {
		return 0
	}
	return level
}
