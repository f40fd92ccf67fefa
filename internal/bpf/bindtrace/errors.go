//go:build linux

package bindtrace

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/linux"
)

// Reasons of an [UnavailableError]: short, fixed, fit for a label.
const (
	ReasonNoBTF         = "no_btf"              // the kernel carries no BTF
	ReasonNoCapBPF      = "cap_bpf"             // CAP_BPF is missing
	ReasonNoCapPerfmon  = "cap_perfmon"         // CAP_PERFMON is missing
	ReasonNoTracefs     = "no_tracefs"          // tracefs is not mounted
	ReasonTracefsDenied = "tracefs_denied"      // tracefs is there, and closed to this user
	ReasonPerfParanoid  = "perf_event_paranoid" // kernel.perf_event_paranoid forbids tracepoints
	ReasonRefused       = "refused"             // EPERM although no capability is missing
	ReasonUnsupported   = "unsupported"         // the kernel lacks a feature
	ReasonNothingSeen   = "nothing_seen"        // attached, and blind
	ReasonAttachFailed  = "attach_failed"       // any other error
)

// An UnavailableError says why binds cannot be traced on this host.
type UnavailableError struct {
	Reason string // one of the Reason constants
	Err    error
}

func (e *UnavailableError) Error() string { return "bind tracing unavailable: " + e.Err.Error() }

func (e *UnavailableError) Unwrap() error { return e.Err }

var (
	errNothingSeen = errors.New("attached, but the tracer's own failing call was not seen")
	errNoTracefs   = errors.New("tracefs is not mounted: mount -t tracefs tracefs /sys/kernel/tracing")
)

// unavailable finds the reason for what New met.
func unavailable(err error) *UnavailableError {
	var already *UnavailableError
	if errors.As(err, &already) {
		return already
	}
	reason := ReasonAttachFailed
	switch {
	case errors.Is(err, errNothingSeen):
		reason = ReasonNothingSeen
	case errors.Is(err, errNoTracefs):
		reason = ReasonNoTracefs
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		reason, err = denied(err)
	case errors.Is(err, ebpf.ErrNotSupported):
		reason = ReasonUnsupported
	}
	return &UnavailableError{Reason: reason, Err: err}
}

// denied tells which capability is missing, since the kernel's EPERM does not.
func denied(err error) (string, error) {
	var path *os.PathError
	switch {
	case errors.As(err, &path):
		return ReasonTracefsDenied, fmt.Errorf("CAP_DAC_READ_SEARCH is missing: %w", err)
	case !linux.HasCap(unix.CAP_BPF, unix.CAP_SYS_ADMIN):
		return ReasonNoCapBPF, fmt.Errorf("CAP_BPF is missing: %w", err)
	case !linux.HasCap(unix.CAP_PERFMON, unix.CAP_SYS_ADMIN):
		return ReasonNoCapPerfmon, fmt.Errorf("CAP_PERFMON is missing: %w", err)
	case errors.Is(err, unix.EACCES) && perfParanoid() > 2 && !linux.HasCap(unix.CAP_SYS_ADMIN):
		return ReasonPerfParanoid, fmt.Errorf("CAP_SYS_ADMIN, or sysctl kernel.perf_event_paranoid=2, is missing: %w", err)
	}
	return ReasonRefused, err
}

// perfParanoid is kernel.perf_event_paranoid. Debian's kernels know more values
// than the 2 of others: above it perf_event_open wants CAP_SYS_ADMIN.
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
