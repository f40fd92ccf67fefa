package linux

import (
	"fmt"
	"os"
	"runtime"
	"testing"

	"sockstate_exporter/internal/kerneltest"
)

func init() { runtime.LockOSThread() } //nolint:gochecknoinits // later, TestMain may run on another thread

func TestMain(m *testing.M) {
	if role := os.Getenv(slackRole); role != "" {
		if err := restartAs(role); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	kerneltest.Main(m)
}
