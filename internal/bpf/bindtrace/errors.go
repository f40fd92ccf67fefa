//go:build linux

package bindtrace

import (
	"bytes"
	"errors"
	"os"
	"strconv"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/sock"
)

var (
	errNothingSeen = errors.New("attached, but the tracer's own failing call was not seen")
	errNoTracefs   = errors.New("tracefs is not mounted")
)

// unavailable finds out why a mode does not work.
func unavailable(feature string, mode Mode, err error) *sock.UnavailableError {
	u := &sock.UnavailableError{Feature: feature, Mode: mode.String(), Err: err}
	switch {
	case errors.Is(err, errNothingSeen):
		u.Reason = sock.ReasonNothingSeen
	case errors.Is(err, errNoTracefs):
		u.Reason, u.Need = sock.ReasonNoTracefs, "tracefs: mount -t tracefs tracefs /sys/kernel/tracing"
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		u.Reason, u.Need = denied(err)
	case errors.Is(err, ebpf.ErrNotSupported):
		u.Reason = sock.ReasonUnsupported
	default:
		u.Reason = sock.ReasonAttachFailed
	}
	return u
}

// denied finds out which capability is missing, since the kernel's EPERM does not say. CAP_SYS_ADMIN
// does for each that bpf(2) asks for (bpf_capable, perfmon_capable).
func denied(err error) (reason, need string) {
	var path *os.PathError
	switch {
	case errors.As(err, &path):
		return sock.ReasonTracefsDenied, "CAP_DAC_READ_SEARCH to read tracefs"
	case !linux.HasCap(unix.CAP_BPF, unix.CAP_SYS_ADMIN):
		return sock.ReasonCapBPF, "CAP_BPF"
	case !linux.HasCap(unix.CAP_PERFMON, unix.CAP_SYS_ADMIN):
		return sock.ReasonCapPerfmon, "CAP_PERFMON"
	case errors.Is(err, unix.EACCES) && perfParanoid() > 2 && !linux.HasCap(unix.CAP_SYS_ADMIN):
		return sock.ReasonPerfParanoid, "CAP_SYS_ADMIN, or sysctl kernel.perf_event_paranoid=2"
	}
	return sock.ReasonRefused, "eBPF, which is refused here (user namespace, lockdown, LSM or seccomp)"
}

// perfParanoid returns kernel.perf_event_paranoid. Debian's kernels know values above 2, with
// which perf_event_open wants CAP_SYS_ADMIN.
func perfParanoid() int {
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
