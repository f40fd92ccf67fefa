package owner

import (
	"os"
	"testing"

	"sockstate_exporter/internal/kerneltest"
)

func TestMain(m *testing.M) {
	if os.Getenv(helperEnv) != "" {
		os.Exit(helper())
	}
	kerneltest.Main(m)
}
