// Package idlegc collects garbage between the requests of an HTTP server.
//
// A scrape leaves a heap that is mostly garbage, and then nothing happens for seconds. A collection in that time
// delays nobody. The heap stays smaller than the garbage collector would let it become, so the next scrape
// works in memory that the caches of the CPU still hold. That saves as much CPU time as the additional
// collections take (docs/performance.md).
package idlegc

import (
	"net/http"
	"runtime"
	"runtime/metrics"
	"sync/atomic"
)

// share is the part of the room for garbage, up to the goal of the garbage collector, that has to be used before
// there is a collection. So GOGC and GOMEMLIMIT say here, too, how much memory may be used to save CPU time.
const share = 0.25

// Handler serves with next, and collects garbage when an answer is done, if there is much.
func Handler(next http.Handler) http.Handler {
	var collecting atomic.Bool
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r)
		if !isDue() || !collecting.CompareAndSwap(false, true) {
			return
		}
		go func() { // the server sends the end of the answer when this function has returned
			defer collecting.Store(false)
			runtime.GC()
		}()
	})
}

func isDue() bool {
	samples := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"}, // after the last collection
		{Name: "/gc/heap/goal:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"},
	}
	metrics.Read(samples)
	live, goal, used := samples[0].Value.Uint64(), samples[1].Value.Uint64(), samples[2].Value.Uint64()
	return used > live && float64(used-live) > share*float64(goal-live)
}
