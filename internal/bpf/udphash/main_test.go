package udphash_test

import (
	"testing"

	"github.com/cilium/ebpf/features"

	"sockstate_exporter/internal/bpf/udphash"
	"sockstate_exporter/internal/kerneltest"
)

func TestMain(m *testing.M) { kerneltest.Main(m) }

// newReader leaves the test out on kernels before 6.1 only.
func newReader(t testing.TB) *udphash.Reader {
	t.Helper()
	kerneltest.RequireRoot(t)
	r, err := udphash.New()
	if err != nil {
		const linux61 = 6<<16 | 1<<8
		if version, verr := features.LinuxVersionCode(); verr == nil && version < linux61 {
			kerneltest.Skip(t, "%v", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}
