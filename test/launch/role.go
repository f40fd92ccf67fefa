package launch

import (
	"fmt"
	"os"
	"testing"

	"sockstate_exporter/internal/kerneltest"
)

// roleEnv makes a test binary one of the processes that its tests start.
const roleEnv = "SOCKSTATE_TEST_ROLE"

// Play plays the role that this process was started in, and ends. In the process of the tests it
// returns.
func Play(roles map[string]func(args []string) error) {
	role := os.Getenv(roleEnv)
	if role == "" {
		return
	}
	if err := roles[role](os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", role, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// InRole prepares this binary in a role. Its path may be closed to other users.
func InRole(t *testing.T, ns *kerneltest.NetNS, role string, args ...string) *kerneltest.Cmd {
	t.Helper()
	cmd := ns.Command(t, "/proc/self/exe", args...)
	cmd.Env = RoleEnv(role)
	cmd.Stderr = os.Stderr
	return cmd
}

// RoleEnv is the environment of a process in a role.
func RoleEnv(role string) []string { return append(os.Environ(), roleEnv+"="+role) }
