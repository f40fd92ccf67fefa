package snapshot

import (
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bindrule"
)

// A wheel says when the timer of a socket in TIME_WAIT runs.
//
// The kernel's timer wheel (kernel/time/timer.c) runs no timer early and most of them late:
// the further off, the coarser. The minute of TIME_WAIT goes up to the next multiple of 512
// jiffies, two seconds with HZ=250; of 4096, four seconds, with HZ=1000. Until then the
// socket is there and blocks, whatever idiag_expires says.
type wheel struct {
	at      time.Time
	jiffies int64 // at that time
	hz      int64 // jiffies a second; 0 where the clocks could not be read
}

// userHZ is the unit of times(2), on every architecture that this runs on.
const userHZ = 100

// readWheel reads jiffies, which anybody may know by times(2).
func readWheel() wheel {
	// The coarse clocks tick with jiffies: LOW_RES_NSEC in include/vdso/jiffies.h.
	var tick unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &tick); err != nil || tick.Nano() <= 0 {
		return wheel{}
	}
	ticks, err := unix.Times(new(unix.Tms))
	if err != nil {
		return wheel{}
	}
	hz := (int64(time.Second) + tick.Nano()/2) / tick.Nano()
	return wheel{at: time.Now(), jiffies: int64(ticks) * hz / userHZ, hz: hz}
}

// correct makes Expires, said at a time, the time from w.at on until the sockets go.
func (w wheel) correct(sockets []bindrule.Socket, said time.Time) {
	for i := range sockets {
		if s := &sockets[i]; s.Kind == bindrule.KindTimeWait {
			s.Expires = w.gone(s.Expires, said)
		}
	}
}

// gone is the time, from w.at on, until a socket goes that was said, at another time, to
// expire after left.
func (w wheel) gone(left time.Duration, said time.Time) time.Duration {
	if w.hz == 0 {
		return left
	}
	left += said.Sub(w.at)
	granularity := w.granularity()
	// calc_index
	runs := (w.jiffies+w.inJiffies(left))/granularity*granularity + granularity
	return time.Duration(runs-w.jiffies) * time.Second / time.Duration(w.hz)
}

func (w wheel) inJiffies(d time.Duration) int64 {
	return int64((d*time.Duration(w.hz) + time.Second/2) / time.Second)
}

// granularity, in jiffies, of the level that a timer of TCP_TIMEWAIT_LEN is on
// (calc_wheel_index, LVL_START).
func (w wheel) granularity() int64 {
	const timeWaitLen = 60 // seconds
	shift := 0
	for w.hz*timeWaitLen >= 63<<shift {
		shift += 3
	}
	return 1 << shift
}
