package linux

import (
	"testing"

	"sockstate_exporter/internal/kerneltest"
)

func TestMain(m *testing.M) { kerneltest.Main(m) }
