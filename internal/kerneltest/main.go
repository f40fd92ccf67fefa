package kerneltest

import (
	"fmt"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest/reexec"
)

// usernsEnv marks a test binary that Main already started once, and, because
// it is inherited, the helper processes that the test binary starts.
const usernsEnv = "SOCKSTATE_KERNELTEST_USERNS"

// noUserNS is printed where the kernel refuses ordinary users a user namespace.
const noUserNS = "kerneltest: running without a user namespace"

// Main runs m and exits. Call it from TestMain. A process that lacks
// CAP_SYS_ADMIN or CAP_NET_ADMIN is run again, with the same arguments, in a
// user and network namespace of its own. There it has both, and lo is up. Where
// the kernel refuses that, the tests run as they are and skip what they cannot
// do.
func Main(m *testing.M) {
	if os.Getenv(usernsEnv) == "" && !HasCaps(unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN) {
		code, err := reexec.Run(usernsEnv, &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		})
		if err == nil {
			os.Exit(code)
		}
		fmt.Fprintf(os.Stderr, "%s: %v\n", noUserNS, err)
	}
	if os.Getenv(usernsEnv) != "" {
		// Tests that make no namespace of their own still use loopback.
		if err := loopbackUp(); err != nil {
			fmt.Fprintf(os.Stderr, "kerneltest: set lo up: %v\n", err)
		}
	}
	os.Exit(m.Run())
}

// HasCaps reports whether all of caps are effective in this thread.
func HasCaps(caps ...int) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	for _, c := range caps {
		if data[c/32].Effective&(1<<(c%32)) == 0 {
			return false
		}
	}
	return true
}
