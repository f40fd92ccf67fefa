package owner

import (
	"fmt"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/sock"
)

// Shortfalls returns what keeps the Finder from finding some owners. It returns nothing where the
// Finder can find all of them.
func (f *Finder) Shortfalls() []*sock.UnavailableError {
	var short []*sock.UnavailableError
	add := func(reason, need string) {
		short = append(short, &sock.UnavailableError{Feature: "socket owners", Reason: reason, Need: need})
	}
	ptrace, list := "for the sockets of other users' processes", "to list other users' descriptors"
	if f.searcher != nil {
		ptrace = "to see at once what other users' processes have closed"
		list = ptrace
	}
	if !linux.HasCap(unix.CAP_SYS_PTRACE) {
		add(sock.ReasonCapSysPtrace, "CAP_SYS_PTRACE "+ptrace)
	}
	if !linux.HasCap(unix.CAP_DAC_READ_SEARCH, unix.CAP_DAC_OVERRIDE) {
		add(sock.ReasonCapDACReadSearch, "CAP_DAC_READ_SEARCH "+list+", and for the cgroup of a process that ended")
	}
	if !f.root {
		add(sock.ReasonPIDNamespace, "procfs of the initial pid namespace for processes outside of this one")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(short) == 0 && f.refused > 0 {
		add(sock.ReasonRefused, fmt.Sprintf(
			"access to %d processes, which AppArmor, SELinux or another security module refuses", f.refused))
	}
	return short
}
