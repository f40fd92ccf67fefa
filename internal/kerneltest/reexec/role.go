package reexec

import (
	"fmt"
	"os"
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

// RoleEnv returns the environment of a process in a role, with further variables.
func RoleEnv(role string, more ...string) []string {
	return append(append(os.Environ(), roleEnv+"="+role), more...)
}
