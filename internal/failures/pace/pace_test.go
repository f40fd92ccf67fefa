package pace

import (
	"testing"
	"testing/synctest"
	"time"
)

// A million failures a second are not read a million a second.
func TestEventsAreReadNoFasterThanTheirPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		read := Reads(func(*int) error { return nil })
		start := time.Now()
		var e int
		for range 10*MaxBurst + 1 {
			if err := read(&e); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took != 10*BurstTime {
			t.Errorf("ten bursts took %v, want %v", took, 10*BurstTime)
		}
	})
}

func TestFewEventsAreReadAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		read := Reads(func(*int) error { time.Sleep(BurstTime); return nil })
		start := time.Now()
		var e int
		for range 2 * MaxBurst {
			if err := read(&e); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took != 2*MaxBurst*BurstTime {
			t.Errorf("slow events took %v, want %v", took, 2*MaxBurst*BurstTime)
		}
	})
}
