package linux

import "golang.org/x/sys/unix"

// HasCap reports whether the calling thread has at least one of the capabilities (unix.CAP_...) in
// its effective set. Several are for checks in the kernel that accept any of them: bpf_capable
// takes CAP_BPF or CAP_SYS_ADMIN.
func HasCap(capabilities ...int) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	for _, c := range capabilities {
		if data[c/32].Effective&(1<<(c%32)) != 0 {
			return true
		}
	}
	return false
}
