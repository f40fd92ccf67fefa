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

// machine is how qemu makes a guest of an architecture.
type machine struct {
	qemu   tool
	args   []string // with the init's report on stdio
	report string   // what the guest calls the report's serial line
	kernel string   // parameters
}

var machines = map[string]machine{
	"amd64": {
		qemu: tool{"qemu-system-x86_64", "qemu-system-x86"},
		// Without cmpxchg16b: a guest of Linux 6.12 had a double fault just after it, with an address in EFLAGS (QEMU 7.2).
		// Without erms and fsrm: kernels that have them copy byte by byte, which is slow to emulate.
		args:   []string{"-cpu", "max,-cx16,-erms,-fsrm", "-serial", "stdio"},
		report: "/dev/ttyS1",
		// check_timer panics when the timer does not tick in time, as happens on a
		// busy host. Without tsc=reliable each look at the clock asks an emulated device.
		kernel: "console=ttyS0 no_timer_check tsc=reliable",
	},
	"arm64": {
		qemu: tool{"qemu-system-aarch64", "qemu-system-arm"},
		// Faster than max. It runs 32-bit programs, as not all CPUs of arm64 do.
		args:   []string{"-machine", "virt", "-cpu", "neoverse-n1", "-chardev", "stdio,id=report", "-device", "pci-serial,chardev=report"},
		report: "/dev/ttyS0",
		kernel: "console=ttyAMA0",
	},
}

// bootGuest runs a guest to its end and hands what its init reports to
// onEvent. It returns the kernel's messages. The error says what went wrong
// with the guest, never with a test.
func bootGuest(ctx context.Context, k debkernel.Kernel, initramfs, dir string, bootTimeout time.Duration, plan guest.Plan, onEvent func(guest.Event)) (console []byte, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	dog := newWatchdog(cancel, plan)
	defer dog.stop()

	log := filepath.Join(dir, "console")
	m := machines[k.Arch]
	cmd := exec.CommandContext(ctx, m.qemu.program, append([]string{
		// Of several threads one may run kernel text that another is patching, as
		// happens when a tracepoint is attached: the guest then dies of an int3.
		"-accel", "tcg,thread=single", "-smp", "2", "-m", "2G",
		"-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-nic", "none", "-no-reboot",
		"-serial", "file:" + log, // the kernel's messages
		"-kernel", k.Image, "-initrd", initramfs,
		"-append", m.kernel + " quiet panic=-1 mitigations=off init_on_alloc=0 " + guest.ReportEnv + "=" + m.report,
	}, m.args...)...)
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
