package main

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"sockstate_exporter/test/kernelmatrix/guest"
)

// TestGuestMustKeepGoing lets a guest stall after each of its steps.
func TestGuestMustKeepGoing(t *testing.T) {
	plan := guest.Plan{Runs: []guest.Run{{Package: "p", KillAfter: 2 * time.Minute}}}
	steps := []guest.Event{{Up: &guest.Up{}}, {Start: "p"}, {Output: []byte("x")}, {Exit: &guest.Exit{}}, {Done: true}}
	for done, want := range []string{
		"guest did not come up within 5m0s",
		"guest did not go on within 1m0s",
		"guest did not end p within 2m30s",
		"guest did not end p within 2m30s",
		"guest did not go on within 1m0s",
		"guest did not power off within 1m0s",
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			dog := newWatchdog(cancel, plan)
			dog.expect("come up", 5*time.Minute)
			for _, e := range steps[:done] {
				time.Sleep(30 * time.Second)
				dog.see(e)
			}
			<-ctx.Done()
			if got := context.Cause(ctx).Error(); got != want {
				t.Errorf("after %d steps: %q, want %q", done, got, want)
			}
		})
	}
}

func TestGuestThatEndedIsNotWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		dog := newWatchdog(cancel, guest.Plan{})
		dog.expect("come up", time.Minute)
		dog.stop()
		time.Sleep(time.Hour)
		if ctx.Err() != nil {
			t.Errorf("cancelled: %v", context.Cause(ctx))
		}
	})
}
