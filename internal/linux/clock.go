package linux

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// BootTime returns the time at which CLOCK_BOOTTIME was 0, by the wall clock as it is set now.
func BootTime() (time.Time, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return time.Time{}, fmt.Errorf("read CLOCK_BOOTTIME: %w", err)
	}
	return time.Now().Round(0).Add(-time.Duration(now.Nano())), nil
}
