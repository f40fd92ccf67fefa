package linux

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Timers says when the kernel runs the timer of a socket in TIME_WAIT.
//
// The kernel's timer wheel (kernel/time/timer.c) runs no timer early and most of them late. The
// longer a timer runs, the later it may be. The minute of TIME_WAIT is rounded up to the next
// multiple of 512 jiffies with HZ=250, which is two seconds, and of 4096 jiffies with HZ=1000,
// which is four seconds. Until then the socket exists and blocks a bind, whatever idiag_expires
// says.
type Timers struct {
	At      time.Time // when the clocks were read
	Jiffies int64     // the kernel's jiffies at that time
	HZ      int64     // jiffies per second; 0 where the clocks could not be read
}

// userHZ is the unit of times(2), on every architecture that this runs on.
const userHZ = 100

// ReadTimers reads the kernel's jiffies, which every user may do with times(2).
func ReadTimers() Timers {
	tick, err := Tick()
	if err != nil {
		return Timers{At: time.Now()}
	}
	ticks, err := unix.Times(new(unix.Tms))
	if err != nil {
		return Timers{At: time.Now()}
	}
	return Timers{At: time.Now(), Jiffies: jiffies(int64(ticks), tick), HZ: HZ(tick)}
}

// Tick returns the time of a jiffy, TICK_NSEC. CONFIG_HZ cannot be read on every host.
func Tick() (time.Duration, error) {
	// The coarse clocks tick with jiffies: LOW_RES_NSEC in include/vdso/jiffies.h.
	var res unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &res); err != nil {
		return 0, fmt.Errorf("clock_getres: %w", err)
	}
	if res.Nano() <= 0 {
		return 0, fmt.Errorf("clock_getres: the resolution is %d ns", res.Nano())
	}
	return time.Duration(res.Nano()), nil
}

// jiffies reverses jiffies_64_to_clock_t. TICK_NSEC is not quite 1/HZ of a second where HZ is 300.
func jiffies(ticks int64, tick time.Duration) int64 {
	return ticks * int64(time.Second/userHZ) / int64(tick)
}

// Gone returns the time from t.At until a socket is gone. left is the time until its timer expires,
// as the kernel reported it at the time said.
func (t Timers) Gone(left time.Duration, said time.Time) time.Duration {
	left += said.Sub(t.At)
	if t.HZ == 0 {
		return left
	}
	granularity := int64(1) << TimeWaitShift(t.HZ)
	// calc_index
	runs := (t.Jiffies+t.inJiffies(left))/granularity*granularity + granularity
	return time.Duration(runs-t.Jiffies) * time.Second / time.Duration(t.HZ)
}

func (t Timers) inJiffies(d time.Duration) int64 {
	return int64((d*time.Duration(t.HZ) + time.Second/2) / time.Second)
}

// TimeWaitShift says to which bits of jiffies the kernel rounds a timer of TCP_TIMEWAIT_LEN
// (calc_wheel_index, LVL_START). hz is jiffies per second.
func TimeWaitShift(hz int64) (shift int) {
	const timeWaitLen = 60 // seconds
	for hz*timeWaitLen >= 63<<shift {
		shift += 3
	}
	return shift
}

// HZ returns jiffies per second, by the time of one.
func HZ(tick time.Duration) int64 { return int64((time.Second + tick/2) / tick) }
