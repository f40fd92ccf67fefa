package kerneltest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// requireAllEnv turns every Skip into a failure when it is "1".
const requireAllEnv = "SOCKSTATE_REQUIRE_ALL"

// initUserNS is the inode of the initial user namespace: PROC_USER_INIT_INO,
// include/linux/proc_ns.h.
const initUserNS = 0xEFFFFFFD

// Skip skips the test with a reason. Where SOCKSTATE_REQUIRE_ALL=1 says that
// everything must run, it fails the test.
func Skip(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv(requireAllEnv) == "1" {
		t.Fatalf("cannot run here, and "+requireAllEnv+"=1: "+format, args...)
	}
	t.Skipf(format, args...)
}

// RequireCommand returns the path of the named program. It skips where the
// program is not installed.
func RequireCommand(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Skip(t, "needs %s: %v", name, err)
	}
	return path
}

// RequireNetNS skips where network namespaces cannot be created.
func RequireNetNS(t testing.TB) {
	t.Helper()
	_ = New(t).Close()
}

// RequireRoot skips unless the process is root, with CAP_SYS_ADMIN, in the
// initial user namespace. bpf(2) and running as another user need that; the
// namespace that [Main] creates is not enough.
func RequireRoot(t testing.TB) {
	t.Helper()
	initial, err := InInitUserNS()
	switch {
	case err != nil:
		Skip(t, "needs root in the initial user namespace: %v", err)
	case !initial:
		Skip(t, "needs root in the initial user namespace, this is another one")
	case os.Geteuid() != 0:
		Skip(t, "needs root, this is uid %d", os.Geteuid())
	case !HasCaps(unix.CAP_SYS_ADMIN):
		Skip(t, "needs root with CAP_SYS_ADMIN, which was dropped")
	}
}

// KernelAtLeast reports whether the kernel is of this release, or a later one.
func KernelAtLeast(t testing.TB, major, minor int) bool {
	t.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	release := unix.ByteSliceToString(name.Release[:])
	var x, y int
	if _, err := fmt.Sscanf(release, "%d.%d", &x, &y); err != nil {
		t.Fatalf("kernel release %q: %v", release, err)
	}
	return x > major || x == major && y >= minor
}

// InInitUserNS reports whether this process is in the initial user namespace.
func InInitUserNS() (bool, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/user", &st); err != nil {
		return false, fmt.Errorf("stat /proc/self/ns/user: %w", err)
	}
	return st.Ino == initUserNS, nil
}

// SkipOrFatal skips the test where err is something that a host may refuse, and
// fails it for any other error.
func SkipOrFatal(t testing.TB, err error) {
	t.Helper()
	for _, refused := range []error{
		unix.EPERM, unix.EACCES, unix.EROFS, // privileges, read-only /proc/sys
		unix.ENOSPC,                        // user.max_net_namespaces
		unix.EINVAL,                        // no CONFIG_NET_NS
		unix.EAFNOSUPPORT, unix.EOPNOTSUPP, // no IPv6, no such link type
		unix.EPROTONOSUPPORT, unix.ENOPROTOOPT, // no MPTCP, no TCP_REPAIR
	} {
		if errors.Is(err, refused) {
			Skip(t, "%v", err)
		}
	}
	t.Fatal(err)
}
