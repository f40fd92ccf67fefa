package linux

import (
	"testing"
	"time"
)

// By hand from calc_wheel_index of kernel/time/timer.c. That the kernel does so is shown by
// TestKernelBindSucceedsWhenPredicted.
func TestTimersRunAtATurnOfTheWheel(t *testing.T) {
	at := time.Now()
	const jiffy = 4 * time.Millisecond // HZ=250
	for _, tt := range []struct {
		name    string
		jiffies int64
		hz      int64
		left    time.Duration
		said    time.Duration // before at
		want    time.Duration
	}{
		{"just after a turn", 512_000 + 1, 250, 0, 0, 511 * jiffy},
		{"at a turn", 512_000, 250, 0, 0, 512 * jiffy},
		{"just before a turn", 512_000 - 1, 250, 0, 0, jiffy},
		{"a minute from a turn", 512_000, 250, time.Minute, 0, 15_360 * jiffy}, // 30 turns; a minute is 29.3
		{"up to a turn goes to the next", 512_000, 250, 512 * jiffy, 0, 1024 * jiffy},
		{"a jiffy less does not", 512_000, 250, 511 * jiffy, 0, 512 * jiffy},
		{"said a while ago", 512_000, 250, 512 * jiffy, jiffy, 512 * jiffy},
		{"HZ=100", 512_000, 100, time.Minute, 0, 6144 * 10 * time.Millisecond},
		{"HZ=1000", 4096_000, 1000, time.Minute, 0, 61_440 * time.Millisecond},
		{"HZ=300", 512_000, 300, time.Minute, 0, 61_440 * time.Millisecond},
		{"unknown clocks", 512_000, 0, time.Minute, 0, time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			timers := Timers{At: at, Jiffies: tt.jiffies, HZ: tt.hz}
			if got := timers.Gone(tt.left, at.Add(-tt.said)); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// Five minutes after the boot (INITIAL_JIFFIES), as jiffies_64_to_clock_t makes clock ticks of jiffies.
func TestJiffiesOfAnyHZ(t *testing.T) {
	for hz, tick := range map[int64]time.Duration{100: 10_000_000, 250: 4_000_000, 300: 3_333_333, 1000: 1_000_000} {
		want := int64(1) << 32
		ticks := want * int64(tick) / 10_000_000
		if got := jiffies(ticks, tick); got > want || got < want-hz/userHZ {
			t.Errorf("HZ=%d: %d clock ticks are %d jiffies, want %d", hz, ticks, got, want)
		}
	}
}

func TestTimersOfThisKernelAreReadable(t *testing.T) {
	timers := ReadTimers()
	if timers.HZ < 24 || timers.HZ > 1200 || timers.Jiffies <= 0 || timers.At.IsZero() {
		t.Errorf("got %+v, want clocks", timers)
	}
}
