package sockfiles

import (
	"os"
	"testing"

	"sockstate_exporter/internal/kerneltest"
)

// helperEnv makes the test binary a helper process.
const helperEnv = "SOCKSTATE_SOCKFILES_HELPER"

func TestMain(m *testing.M) {
	if os.Getenv(helperEnv) != "" {
		os.Exit(helper())
	}
	kerneltest.Main(m)
}
