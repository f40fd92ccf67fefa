package idlegc

import (
	"net/http"
	"net/http/httptest"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

func collections() uint32 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.NumGC
}

// serve answers one request, and says whether there was a collection soon afterwards.
func serve(t *testing.T, h http.Handler, patience time.Duration) bool {
	t.Helper()
	before := collections()
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody))
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if collections() > before {
			return true
		}
	}
	return false
}

func TestGarbageIsCollectedAfterTheAnswer(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(1000)) // 40 MiB at least
	var garbage []byte
	inMeantime := make(chan uint32, 1)
	h := Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		before := collections()
		for range 20 {
			garbage = make([]byte, 1<<20)
		}
		inMeantime <- collections() - before
	}))
	runtime.GC()
	if !serve(t, h, time.Minute) {
		t.Error("20 MiB of garbage were not collected")
	}
	if n := <-inMeantime; n > 0 {
		t.Errorf("%d collections before the answer was done: this test shows nothing", n)
	}
	runtime.KeepAlive(garbage)
}

func TestLittleGarbageWaits(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(1000))
	h := Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 1<<10)) }))
	runtime.GC()
	if serve(t, h, 200*time.Millisecond) {
		t.Error("a kilobyte of garbage was collected")
	}
}

// Who turns the garbage collector off gets no collections from here, either.
func TestGarbageCollectorMayBeOff(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	var garbage []byte
	h := Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { garbage = make([]byte, 20<<20) }))
	runtime.GC()
	if serve(t, h, 200*time.Millisecond) {
		t.Error("garbage was collected")
	}
	runtime.KeepAlive(garbage)
}
