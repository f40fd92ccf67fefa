package check

import (
	"runtime"
	"testing"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/report"
	"sockstate_exporter/internal/sock"
)

// A heapWatcher is a Writer that measures the memory in use now and then.
type heapWatcher struct {
	written, measured int
	most              uint64
}

func (w *heapWatcher) Write(p []byte) (int, error) {
	w.written += len(p)
	if w.written-w.measured > 4<<20 {
		w.measured = w.written
		w.most = max(w.most, inUse())
	}
	return len(p), nil
}

func inUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestReportOfAllPortsTakesBoundedMemory(t *testing.T) {
	kerneltest.RequireNetNS(t)
	opts := &options{targets: []report.Target{{PortRange: sock.PortRange{First: 1, Last: 65535}}}}
	src := openSources(&options{})
	defer src.Close()
	before := inUse()
	judged, err := src.look(t.Context(), opts, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		json  bool
		bytes int // at least
	}{{true, 50 << 20}, {false, 1}} {
		opts.json = tt.json
		w := new(heapWatcher)
		if err := write(judged, opts, "", w); err != nil {
			t.Fatal(err)
		}
		if w.written < tt.bytes {
			t.Errorf("JSON %v: %d bytes, want those of 65,535 ports", tt.json, w.written)
		}
		if n := max(w.most, inUse()) - before; n > 16<<20 {
			t.Errorf("JSON %v: %.1f MiB in use, want 16 at most", tt.json, float64(n)/(1<<20))
		} else {
			t.Logf("JSON %v: %.1f MiB in use", tt.json, float64(n)/(1<<20))
		}
	}
}

// A port on which nothing is takes little, before it is written too.
func TestSnapshotAndReportOfAllPortsAllocateLittle(t *testing.T) {
	kerneltest.RequireNetNS(t)
	src := openSources(&options{})
	defer src.Close()
	allocated := func(last uint16) uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := src.look(t.Context(), &options{targets: []report.Target{{PortRange: sock.PortRange{First: 1, Last: last}}}}, true); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	allocated(1) // what is made once
	one, all := allocated(1), allocated(65535)
	if perPort := float64(all-one) / 65535; all < one || perPort > 1500 {
		t.Errorf("%.0f bytes are allocated for a port, want 1500 at most", perPort)
	} else {
		t.Logf("%.0f bytes are allocated for a port", perPort)
	}
}
