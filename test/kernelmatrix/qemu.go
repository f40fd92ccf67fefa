package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"sockstate_exporter/test/kernelmatrix/debkernel"
	"sockstate_exporter/test/kernelmatrix/guest"
)

// How long a guest may take for a step that is not a test.
const (
	stepTimeout = time.Minute
	// hostMargin is added to what the init allows a test binary, so that the
	// init is the one to kill it and to say so.
	hostMargin = 30 * time.Second
)

// bootGuest runs a guest to its end and hands what its init reports to
// onEvent. It returns the kernel's messages. The error says what went wrong
// with the guest, never with a test.
func bootGuest(ctx context.Context, k debkernel.Kernel, initramfs, dir string, bootTimeout time.Duration, plan guest.Plan, onEvent func(guest.Event)) (console []byte, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	dog := newWatchdog(cancel, plan)
	defer dog.stop()

	log := filepath.Join(dir, "console")
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64",
		// Of several threads one may run kernel text that another is patching, as
		// happens when a tracepoint is attached: the guest then dies of an int3.
		"-accel", "tcg,thread=single", "-cpu", "max", "-smp", "2", "-m", "2G",
		"-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-nic", "none", "-no-reboot",
		"-serial", "file:"+log, // ttyS0: the kernel
		"-serial", "stdio", // ttyS1: the init's report
		"-kernel", k.Image, "-initrd", initramfs,
		// check_timer panics when the timer does not tick in time, as happens on a
		// busy host.
		"-append", "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	report, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	// Pdeathsig is sent when the starting thread ends, not the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	dog.expect("come up", bootTimeout)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start qemu: %w", err)
	}
	done := false
	readErr := guest.Read(report, func(e guest.Event) error {
		dog.see(e)
		onEvent(e)
		done = done || e.Done
		if e.Fatal != "" {
			return fmt.Errorf("guest gave up: %s", e.Fatal)
		}
		return nil
	})
	if readErr != nil {
		cancel(readErr)
	}
	waitErr := cmd.Wait()
	console, err = os.ReadFile(log)
	switch {
	case ctx.Err() != nil:
		return console, context.Cause(ctx)
	case waitErr != nil:
		return console, fmt.Errorf("qemu: %w: %s", waitErr, bytes.TrimSpace(stderr.Bytes()))
	case !done:
		return console, errors.New("guest ended before its plan did")
	}
	return console, err
}

// watchdog cancels a guest that does not get to its next step in time.
type watchdog struct {
	cancel context.CancelCauseFunc
	limits map[string]time.Duration // of packages
	timer  *time.Timer
}

func newWatchdog(cancel context.CancelCauseFunc, plan guest.Plan) *watchdog {
	w := &watchdog{cancel: cancel, limits: make(map[string]time.Duration)}
	for _, r := range plan.Runs {
		w.limits[r.Package] = r.KillAfter + hostMargin
	}
	return w
}

func (w *watchdog) expect(step string, within time.Duration) {
	w.stop()
	w.timer = time.AfterFunc(within, func() {
		w.cancel(fmt.Errorf("guest did not %s within %v", step, within))
	})
}

func (w *watchdog) see(e guest.Event) {
	switch {
	case e.Up != nil, e.Exit != nil:
		w.expect("go on", stepTimeout)
	case e.Start != "":
		w.expect("end "+e.Start, w.limits[e.Start])
	case e.Done:
		w.expect("power off", stepTimeout)
	}
}

func (w *watchdog) stop() {
	if w.timer != nil {
		w.timer.Stop()
	}
}
