// Package pace bounds how fast events are read. It also waits between looks.
package pace

import (
	"context"
	"time"
)

// At most MaxBurst events are read in BurstTime, so that a storm of failing binds, which any user
// can make, costs a few percent of a CPU. The tracer counts the events that its ring cannot hold
// meanwhile (Stats.Lost).
const (
	MaxBurst  = 4096
	BurstTime = 100 * time.Millisecond
)

// Reads returns a read at that pace.
func Reads[T any](read func(*T) error) func(*T) error {
	n, start := 0, time.Now()
	return func(e *T) error {
		if n++; n > MaxBurst {
			time.Sleep(BurstTime - time.Since(start))
			n, start = 1, time.Now()
		}
		return read(e)
	}
}

// Pause waits for so long, or until ctx ends.
func Pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
