package owner

import (
	"fmt"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/linux"
)

// A Reason says in a word what keeps owners from being found: a label value.
type Reason string

// The reasons.
const (
	ReasonCapPtrace    Reason = "cap_sys_ptrace"      // CAP_SYS_PTRACE is missing
	ReasonCapReadOther Reason = "cap_dac_read_search" // CAP_DAC_READ_SEARCH is missing
	ReasonPIDNamespace Reason = "pid_namespace"       // procfs shows the processes of one pid namespace
	ReasonRefused      Reason = "refused"             // an owner was not found, and some processes may not be looked into, in spite of the capabilities: AppArmor, SELinux
)

// An UnavailableError says why some owners are not found.
type UnavailableError struct {
	Reason Reason
	Need   string // what is missing, in words
}

func (e *UnavailableError) Error() string { return "owners of sockets: needs " + e.Need }

// Shortfalls says what keeps some owners from being found: nothing, where all can be.
func (f *Finder) Shortfalls() []*UnavailableError {
	var short []*UnavailableError
	if !linux.HasCap(unix.CAP_SYS_PTRACE) {
		short = append(short, &UnavailableError{ReasonCapPtrace,
			"CAP_SYS_PTRACE for the sockets of other users' processes"})
	}
	if !linux.HasCap(unix.CAP_DAC_READ_SEARCH, unix.CAP_DAC_OVERRIDE) {
		short = append(short, &UnavailableError{ReasonCapReadOther,
			"CAP_DAC_READ_SEARCH to list other users' descriptors, and for the cgroup of a process that ended"})
	}
	if !f.root {
		short = append(short, &UnavailableError{ReasonPIDNamespace,
			"procfs of the initial pid namespace for processes outside of this one"})
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(short) == 0 && f.refused > 0 {
		short = append(short, &UnavailableError{ReasonRefused,
			fmt.Sprintf("leave to look into %d processes, in spite of the capabilities", f.refused)})
	}
	return short
}
