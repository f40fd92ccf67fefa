package exporter

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/test/launch"
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

// inRole has this binary become the exporter, after the role has changed something.
func (e *exporter) inRole(role string) {
	e.Cmd.Path = "/proc/self/exe"
	e.Cmd.Env = append(os.Environ(), roleEnv+"="+role)
}

// becomeExporter makes this process the exporter.
func becomeExporter() error {
	return unix.Exec(launch.Path, append([]string{"sockstate_exporter"}, os.Args[1:]...), os.Environ())
}

// withoutTracefs is the exporter, in a mount namespace from which it took tracefs away.
func withoutTracefs([]string) error {
	if err := kerneltest.UnmountTracefs(); err != nil {
		return err
	}
	return becomeExporter()
}
