package linux

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// TimerSlackSet is in the environment of a program that [RestartWithTimerSlack] started. A sandbox that does not
// keep the slack must not make it restart for ever.
const TimerSlackSet = "SOCKSTATE_TIMER_SLACK_SET"

// RestartWithTimerSlack executes the running program again, with the same arguments and process id, so that the
// kernel may let each of its timers expire up to slack late. It returns nil where that was done already. An
// error means that the program goes on with the slack that it has.
//
// The caller is on the main thread: the one that executes keeps what belongs to a thread, as the signal that it
// gets when its parent ends (PR_SET_PDEATHSIG).
//
// This is for the monitor thread of the Go runtime. It sleeps 20 microseconds at a time while a system call
// runs, and each time costs a timer interrupt and two context switches. prctl(2) changes the slack of the calling
// thread. Threads and programs that it starts inherit it, but the monitor is started before main.
func RestartWithTimerSlack(slack time.Duration) error {
	if os.Getenv(TimerSlackSet) != "" {
		return nil
	}
	if unix.Gettid() != unix.Getpid() {
		return errors.New("not on the main thread")
	}
	now, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil {
		return fmt.Errorf("prctl PR_GET_TIMERSLACK: %w", err)
	}
	if time.Duration(now) >= slack {
		return nil
	}
	path, err := program()
	if err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(slack), 0, 0, 0); err != nil {
		return fmt.Errorf("prctl PR_SET_TIMERSLACK: %w", err)
	}
	if err := unix.Exec(path, os.Args, append(os.Environ(), TimerSlackSet+"=1")); err != nil {
		return fmt.Errorf("execute %s: %w", path, err)
	}
	return nil
}

// program returns the path of the running program, if it is still there. Somebody else may have put another
// program there since. (/proc/self/exe would always be the right one. But it names the process "exe".)
func program() (string, error) {
	path, err := os.Executable()
	if err != nil {
		return "", err
	}
	there, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	running, err := os.Stat("/proc/self/exe")
	if err != nil {
		return "", err
	}
	if !os.SameFile(there, running) {
		return "", fmt.Errorf("%s is another program now", path)
	}
	return path, nil
}
