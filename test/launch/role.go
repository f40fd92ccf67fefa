package launch

import (
	"os"
	"testing"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/reexec"
)

// InRole prepares this binary in a role. Its path may be closed to other users.
func InRole(t *testing.T, ns *kerneltest.NetNS, role string, args ...string) *kerneltest.Cmd {
	t.Helper()
	cmd := ns.Command(t, "/proc/self/exe", args...)
	cmd.Env = reexec.RoleEnv(role)
	cmd.Stderr = os.Stderr
	return cmd
}
