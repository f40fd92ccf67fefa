package sock

// The reasons of an [UnavailableError]. Each is a value of the label "reason".
const (
	ReasonCapBPF           = "cap_bpf"             // CAP_BPF is missing
	ReasonCapPerfmon       = "cap_perfmon"         // CAP_PERFMON is missing
	ReasonCapSysAdmin      = "cap_sys_admin"       // CAP_SYS_ADMIN is missing, to enter another namespace
	ReasonCapSysPtrace     = "cap_sys_ptrace"      // CAP_SYS_PTRACE is missing
	ReasonCapDACReadSearch = "cap_dac_read_search" // CAP_DAC_READ_SEARCH is missing

	ReasonNoBTF        = "no_btf"        // the kernel has no BTF
	ReasonNoIterator   = "no_iterator"   // the kernel has no iter/tcp, or one that does not fit
	ReasonBPFFailed    = "bpf_failed"    // any other error of bpf(2)
	ReasonUnsupported  = "unsupported"   // the kernel lacks a feature
	ReasonAttachFailed = "attach_failed" // any other error while programs were attached
	ReasonNotTraced    = "not_traced"    // the mode does not trace such calls
	ReasonNothingSeen  = "nothing_seen"  // the programs are attached and did not see a call

	ReasonNoTracefs     = "no_tracefs"          // tracefs is not mounted
	ReasonTracefsDenied = "tracefs_denied"      // tracefs is mounted and this user may not read it
	ReasonPerfParanoid  = "perf_event_paranoid" // kernel.perf_event_paranoid forbids kprobes and tracepoints

	ReasonNoPidfdGetfd = "no_pidfd_getfd" // the kernel has no pidfd_getfd(2)
	ReasonPidfdRefused = "pidfd_refused"  // pidfd_getfd(2) fails even for the own process: seccomp
	ReasonPIDNamespace = "pid_namespace"  // procfs shows the processes of one pid namespace only
	ReasonFailed       = "failed"         // any other error
	ReasonRefused      = "refused"        // EPERM with all capabilities: user namespace, lockdown, AppArmor, SELinux, seccomp
)

// An UnavailableError says that a feature does not work on this host, or works only in part, and
// what it needs.
type UnavailableError struct {
	Feature string // "reuse flags"
	Mode    string // the way that was tried; empty where there is only one
	Reason  string // one of the Reason constants
	Need    string // what is missing, in words; empty where that is not known
	Err     error  // what the kernel answered; nil where it was not asked
}

func (e *UnavailableError) Error() string {
	msg := e.Feature
	if e.Mode != "" {
		msg += " by " + e.Mode
	}
	if e.Need != "" {
		msg += ": needs " + e.Need
	} else {
		msg += ": unavailable"
	}
	if e.Err != nil {
		msg += ": " + e.Err.Error()
	}
	return msg
}

// Unwrap returns what the kernel answered.
func (e *UnavailableError) Unwrap() error { return e.Err }
