package exporter

import (
	"os"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest/mounts"
	"sockstate_exporter/internal/kerneltest/reexec"
	"sockstate_exporter/test/launch"
)

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

// inRole has this binary become the exporter, after the role has changed something.
func (e *exporter) inRole(role string) {
	e.Cmd.Path = "/proc/self/exe"
	e.Cmd.Env = reexec.RoleEnv(role)
}

// becomeExporter makes this process the exporter.
func becomeExporter() error {
	return unix.Exec(launch.Path, append([]string{"sockstate_exporter"}, os.Args[1:]...), os.Environ())
}

// withoutTracefs is the exporter, in a mount namespace from which it took tracefs away.
func withoutTracefs([]string) error {
	if err := mounts.UnmountTracefs(); err != nil {
		return err
	}
	return becomeExporter()
}
