package owner

import (
	"runtime"
	"testing"
	"time"
)

// A scan on a busy host waits for a CPU most of its time. The rest after it must not grow with that.
func TestOnlyCPUTimeOfAScanCounts(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	begun, start := time.Now(), threadTime()
	time.Sleep(100 * time.Millisecond)
	if used, passed := threadTime()-start, time.Since(begun); used > passed/2 {
		t.Errorf("%s of CPU time in %s of sleep", used, passed)
	}
	for threadTime() == start { // it does pass
	}
}
