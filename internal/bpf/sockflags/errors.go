package sockflags

import "fmt"

// A Reason says in a word why a mode does not work: a label value.
type Reason string

// The reasons.
const (
	ReasonCapBPF       Reason = "cap_bpf"             // CAP_BPF is missing
	ReasonCapPerfmon   Reason = "cap_perfmon"         // CAP_PERFMON is missing
	ReasonCapSysAdmin  Reason = "cap_sys_admin"       // another namespace was asked for, and CAP_SYS_ADMIN is missing
	ReasonBPFRefused   Reason = "bpf_refused"         // EPERM in spite of the capabilities: user namespace, lockdown, LSM, seccomp
	ReasonNoBTF        Reason = "no_btf"              // the kernel has no /sys/kernel/btf/vmlinux
	ReasonNoIterator   Reason = "no_iterator"         // the kernel has no iter/tcp, or none that fits
	ReasonBPFFailed    Reason = "bpf_failed"          // anything else
	ReasonNoPidfdGetfd Reason = "no_pidfd_getfd"      // the kernel has no pidfd_getfd(2)
	ReasonPidfdRefused Reason = "pidfd_refused"       // pidfd_getfd(2) does not even work on the own process: seccomp
	ReasonCapPtrace    Reason = "cap_sys_ptrace"      // CAP_SYS_PTRACE is missing
	ReasonCapReadOther Reason = "cap_dac_read_search" // CAP_DAC_READ_SEARCH is missing
)

// An UnavailableError says why flags, or some of them, cannot be read in a mode.
type UnavailableError struct {
	Mode   Mode
	Reason Reason
	Need   string // what is missing, in words
	Err    error  // the kernel's answer; nil where it was not asked
}

func (e *UnavailableError) Error() string {
	msg := fmt.Sprintf("reuse flags by %s: needs %s", e.Mode, e.Need)
	if e.Err != nil {
		msg += fmt.Sprintf(": %v", e.Err)
	}
	return msg
}

// Unwrap gives the kernel's answer.
func (e *UnavailableError) Unwrap() error { return e.Err }
