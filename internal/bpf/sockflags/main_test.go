package sockflags_test

import (
	"os"
	"testing"

	"sockstate_exporter/internal/kerneltest"
)

// helperEnv makes the test binary a helper process: see helper_test.go.
const helperEnv = "SOCKSTATE_SOCKFLAGS_HELPER"

func TestMain(m *testing.M) {
	if os.Getenv(helperEnv) != "" {
		os.Exit(helper())
	}
	kerneltest.Main(m)
}
