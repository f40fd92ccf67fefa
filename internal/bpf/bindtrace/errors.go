//go:build linux

package bindtrace

import (
	"errors"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/loaderr"
	"sockstate_exporter/internal/sock"
)

var (
	errNothingSeen = errors.New("attached, but the tracer's own failing call was not seen")
	errNoTracefs   = errors.New("tracefs is not mounted")
	errNoKprobes   = errors.New("perf_event_open has no kprobes")
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
		u.Reason, u.Need = loaderr.Denied(err)
	case errors.Is(err, ebpf.ErrNotSupported), errors.Is(err, errNoKprobes):
		u.Reason = sock.ReasonUnsupported
	default:
		u.Reason = sock.ReasonAttachFailed
	}
	return u
}
