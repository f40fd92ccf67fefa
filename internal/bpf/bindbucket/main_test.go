package bindbucket_test

import (
	"testing"

	"sockstate_exporter/internal/bpf/bindbucket"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/opener"
)

func TestMain(m *testing.M) { kerneltest.Main(m) }

func newReader(t testing.TB) *bindbucket.Reader {
	t.Helper()
	return opener.Since61(t, func() (*bindbucket.Reader, error) { return bindbucket.New(nil) })
}
