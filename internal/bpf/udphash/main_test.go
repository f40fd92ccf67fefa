package udphash_test

import (
	"testing"

	"sockstate_exporter/internal/bpf/udphash"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/opener"
)

func TestMain(m *testing.M) { kerneltest.Main(m) }

func newReader(t testing.TB) *udphash.Reader {
	t.Helper()
	return opener.Since61(t, func() (*udphash.Reader, error) { return udphash.New(nil) })
}
