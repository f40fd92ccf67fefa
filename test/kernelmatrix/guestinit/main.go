package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"sockstate_exporter/test/kernelmatrix/guest"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "guestinit is the init of a test guest and must be pid 1")
		os.Exit(1)
	}
	if err := run(); err != nil {
		// The console is all that is certain to be there.
		fmt.Fprintln(os.Stderr, "guestinit:", err)
	}
	unix.Sync()
	// Returning from pid 1 would panic the kernel.
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Fprintln(os.Stderr, "guestinit: power off:", err)
	}
	select {}
}

func run() error {
	if err := mountAll(); err != nil {
		return err
	}
	tty, err := openReport()
	if err != nil {
		return err
	}
	r := guest.NewReporter(tty)
	err = serve(r)
	if err != nil {
		err = errors.Join(err, r.Report(guest.Event{Fatal: err.Error()}))
	}
	// TCSBRK with a non-zero argument is tcdrain: power off would cut off what
	// the UART still holds.
	return errors.Join(err, unix.IoctlSetInt(int(tty.Fd()), unix.TCSBRK, 1))
}

func serve(r *guest.Reporter) error {
	plan, err := readPlan()
	if err != nil {
		return err
	}
	if err := prepareHost(); err != nil {
		return err
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return fmt.Errorf("uname: %w", err)
	}
	up := guest.Up{Release: unix.ByteSliceToString(uts.Release[:])}
	if err := r.Report(guest.Event{Up: &up}); err != nil {
		return err
	}
	for _, t := range plan.Runs {
		for ; !t.NoModules && len(plan.Modules) > 0; plan.Modules = plan.Modules[1:] {
			if err := loadModule(plan.Modules[0]); err != nil {
				return err
			}
		}
		if err := r.Report(guest.Event{Start: t.Package}); err != nil {
			return err
		}
		exit, err := runBinary(t, plan.Env, r)
		if err != nil {
			return err
		}
		if err := r.Report(guest.Event{Exit: &exit}); err != nil {
			return err
		}
	}
	return r.Report(guest.Event{Done: true})
}

func readPlan() (guest.Plan, error) {
	var plan guest.Plan
	b, err := os.ReadFile(guest.PlanPath)
	if err != nil {
		return plan, fmt.Errorf("read plan: %w", err)
	}
	if err := json.Unmarshal(b, &plan); err != nil {
		return plan, fmt.Errorf("decode plan: %w", err)
	}
	return plan, nil
}

// openReport opens the second serial line in raw mode, so that the line
// discipline leaves bytes alone.
func openReport() (*os.File, error) {
	tty, err := os.OpenFile(os.Getenv(guest.ReportEnv), os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	t, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("get termios of %s: %w", tty.Name(), err)
	}
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ICANON | unix.ISIG
	if err := unix.IoctlSetTermios(int(tty.Fd()), unix.TCSETS, t); err != nil {
		return nil, fmt.Errorf("set termios of %s: %w", tty.Name(), err)
	}
	return tty, nil
}
