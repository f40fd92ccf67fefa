package sockflags_test

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/sockflags"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/timewait"
)

// BenchmarkReadThousandTimeWait is a usual host. It comes before the million: the
// kernel has one socket table for all namespaces, and a walk passes all of it.
func BenchmarkReadThousandTimeWait(b *testing.B) {
	const thousand = 1000
	benchmarkTimeWait(b, thousand)
}

// BenchmarkReadMillionTimeWait needs the sockets to live until it is done, a minute at
// most: run it with -benchtime of a few iterations.
func BenchmarkReadMillionTimeWait(b *testing.B) {
	const million = 1_000_000
	benchmarkTimeWait(b, million)
}

func benchmarkTimeWait(b *testing.B, n int) {
	b.Helper()
	kerneltest.RequireRoot(b)
	r, err := sockflags.New(sockflags.Options{Mode: sockflags.ModeBPF})
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	ns := kerneltest.New(b)
	timewait.MustMake(b, ns, timewait.Options{Count: n, Ports: []uint16{port}})

	for _, bench := range []struct {
		name string
		port uint16
		want uint64
	}{
		{"all_match", port, uint64(n)},
		{"none_match", port + 1, 0},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			before := cpuTime(b)
			for b.Loop() {
				result, err := r.Read(b.Context(), sockflags.Request{NetNS: ns.FD(), Ports: []uint16{bench.port}})
				if err != nil {
					b.Fatal(err)
				}
				if got := total(result); got != bench.want {
					b.Fatalf("%d sockets on port %d, want %d: have they expired?", got, bench.port, bench.want)
				}
			}
			b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
		})
	}
}

// cpuTime is what this thread has used: steadier than the clock on a busy machine.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		b.Fatal(err)
	}
	return time.Duration(ts.Nano())
}
