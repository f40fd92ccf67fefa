package soak

import (
	"os"
	"testing"
	"time"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/mounts"
	"sockstate_exporter/internal/kerneltest/reexec"
)

// roles are the processes that tests start.
func roles() map[string]func(args []string) error {
	return map[string]func(args []string) error{
		"listen": listenAsNobody,
		"fail":   failToBindAsNobody,
		"flood":  floodAsNobody,
		"act":    actForAWhile,
	}
}

func TestMain(m *testing.M) {
	reexec.Play(roles())
	mounts.PrivateTracefs()
	kerneltest.Main(m)
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
