package bindbucket_test

import (
	"testing"

	"sockstate_exporter/internal/bpf/bindbucket"
	"sockstate_exporter/internal/kerneltest"
)

func TestMain(m *testing.M) { kerneltest.Main(m) }

func newReader(t testing.TB) *bindbucket.Reader {
	t.Helper()
	return kerneltest.OpenSince61(t, bindbucket.New)
}
