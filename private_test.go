package main

import (
	"os"
	"testing"
	"time"

	"sockstate_exporter/internal/kerneltest"
)

// roleEnv makes the test binary one of the processes in roles.
const roleEnv = "SOCKSTATE_TEST_ROLE"

// roles are the processes that tests start.
func roles() map[string]func(args []string) error {
	return map[string]func(args []string) error{
		"fail":      failToBind,
		"listen":    listenAsGo,
		"named":     withNames,
		"newproc":   withNewProc,
		"nobtf":     withoutBTF,
		"nonames":   withoutNames,
		"notracefs": withoutTracefs,
		"sleep": func([]string) error {
			for {
				time.Sleep(time.Hour)
			}
		},
	}
}

// roleCommand prepares this binary in a role.
func roleCommand(t *testing.T, ns *kerneltest.NetNS, role string, args ...string) *kerneltest.Cmd {
	t.Helper()
	cmd := ns.Command(t, "/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	cmd.Stderr = os.Stderr
	return cmd
}

// withoutTracefs is the exporter, in a mount namespace from which it took tracefs away.
func withoutTracefs([]string) error {
	if err := kerneltest.UnmountTracefs(); err != nil {
		return err
	}
	main()
	return nil
}
