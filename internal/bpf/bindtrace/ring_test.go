//go:build linux

package bindtrace

import (
	"errors"
	"os"
	"testing"
	"time"

	"sockstate_exporter/internal/kerneltest"
)

func TestRingIsMappedOnlyWhileThereAreEvents(t *testing.T) {
	eachNewTracer(t, func(t *testing.T, tr *Tracer) {
		ns := kerneltest.New(t)
		watchOnly(t, tr, ns, testPort)
		crowd(t, ns, 1)
		tr.ring.Idle = 200 * time.Millisecond
		if tr.ring.Mapped() {
			t.Error("mapped before the first event")
		}
		for range 2 { // the second time by a ring that was unmapped
			fail(t, ns, 1)
			var e Event
			for e.Netns != uint32(ns.Inode()) {
				if err := tr.Read(time.Now().Add(20*time.Second), &e); err != nil {
					t.Fatal(err)
				}
			}
			if !tr.ring.Mapped() {
				t.Error("not mapped after an event")
			}
			deadline := time.Now().Add(time.Minute)
			for tr.ring.Mapped() { // events of other processes on the host keep it mapped
				err := tr.Read(time.Now().Add(500*time.Millisecond), &e)
				if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatal(err)
				}
				if time.Now().After(deadline) {
					t.Fatal("still mapped")
				}
			}
		}
	})
}
