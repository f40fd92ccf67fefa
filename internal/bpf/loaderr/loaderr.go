// Package loaderr finds out why an eBPF program cannot be loaded.
package loaderr

import (
	"errors"
	"os"

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
	case !linux.HasCap(unix.CAP_BPF, unix.CAP_SYS_ADMIN):
		u.Reason, u.Need = sock.ReasonCapBPF, "CAP_BPF"
	case !linux.HasCap(unix.CAP_PERFMON, unix.CAP_SYS_ADMIN):
		u.Reason, u.Need = sock.ReasonCapPerfmon, "CAP_PERFMON"
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES) && !isVerifierError(err):
		u.Reason, u.Need = sock.ReasonBPFRefused, "bpf(2), which is refused here (user namespace, lockdown, LSM or seccomp)"
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
