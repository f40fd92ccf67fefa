package soak

import (
	"fmt"
	"os"
	"testing"
	"time"

	"sockstate_exporter/internal/kerneltest"
)

// roleEnv makes the test binary one of the processes in roles.
const roleEnv = "SOCKSTATE_SOAK_ROLE"

func roles() map[string]func(args []string) error {
	return map[string]func(args []string) error{
		"listen": listenAsNobody,
		"fail":   failToBindAsNobody,
		"flood":  floodAsNobody,
	}
}

func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		if err := roles()[role](os.Args[1:]); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", role, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if kerneltest.PrivateMounts() {
		if err := kerneltest.MountTracefs(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	kerneltest.Main(m)
}

// roleCommand prepares this binary in a role.
func roleCommand(t *testing.T, ns *kerneltest.NetNS, role string, args ...string) *kerneltest.Cmd {
	t.Helper()
	cmd := ns.Command(t, "/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	cmd.Stderr = os.Stderr
	return cmd
}

// soakEnv is how long each load lasts.
const soakEnv = "SOCKSTATE_SOAK"

func soaking() bool { return os.Getenv(soakEnv) != "" }

func loadTime(t *testing.T) time.Duration {
	t.Helper()
	if !soaking() {
		return 3 * time.Second
	}
	d, err := time.ParseDuration(os.Getenv(soakEnv))
	if err != nil || d <= 0 {
		t.Fatalf("%s=%s: want a duration such as 2m", soakEnv, os.Getenv(soakEnv))
	}
	return d
}

// scrapeEvery is the time between scrapes, so that a short load has some too.
func scrapeEvery() time.Duration {
	if soaking() {
		return time.Second
	}
	return 100 * time.Millisecond
}
