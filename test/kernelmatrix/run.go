package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"sockstate_exporter/test/kernelmatrix/debkernel"
	"sockstate_exporter/test/kernelmatrix/guest"
)

// matrix is what all guests of a run share.
type matrix struct {
	cfg   config
	dir   string                  // temporary
	tests map[string][]testBinary // by architecture

	mu     sync.Mutex // guards what follows
	out    io.Writer
	passed int
	failed int
}

// run reports whether everything passed; an error means that there is nothing
// to judge.
func run(ctx context.Context, cfg config) (ok bool, err error) {
	if err := requireTools(kernelTools...); err != nil {
		return false, err
	}
	dir, err := os.MkdirTemp("", "kernelmatrix-")
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	var kernels []debkernel.Kernel
	for _, name := range cfg.kernels {
		k, err := debkernel.Find(ctx, name, cfg.cache)
		if err != nil {
			return false, err
		}
		if err := requireTools(machines[k.Arch].qemu); err != nil {
			return false, err
		}
		kernels = append(kernels, k)
	}
	m := &matrix{cfg: cfg, dir: dir, tests: make(map[string][]testBinary), out: os.Stdout}
	for _, k := range kernels {
		if m.tests[k.Arch] == nil {
			if err := m.build(ctx, k.Arch); err != nil {
				return false, err
			}
		}
	}
	if err := m.runKernels(ctx, kernels); err != nil {
		return false, err
	}
	fmt.Fprintf(m.out, "%d passed, %d failed\n", m.passed, m.failed)
	return m.failed == 0, nil
}

func (m *matrix) init(arch string) string { return filepath.Join(m.dir, "init."+arch) }

func (m *matrix) build(ctx context.Context, arch string) error {
	if err := buildInit(ctx, arch, m.init(arch)); err != nil {
		return err
	}
	for _, s := range m.cfg.suites(arch) {
		tests, err := buildTests(ctx, arch, m.cfg.dir, m.dir, s.packages, s.sel)
		if err != nil {
			return err
		}
		if missing := s.missing(tests); len(missing) > 0 {
			return fmt.Errorf("no test %s in %s", strings.Join(missing, ", "), s.packages[0])
		}
		for i := range tests {
			tests[i].noModules = s.noModules
		}
		m.tests[arch] = append(m.tests[arch], tests...)
		if s.sel.complete() {
			if err := checkExclusions(m.cfg.exclusions(), tests, m.cfg.allPackages); err != nil {
				return err
			}
		}
	}
	return nil
}

// runKernels boots the guests, -j at a time.
func (m *matrix) runKernels(ctx context.Context, kernels []debkernel.Kernel) error {
	slots := make(chan struct{}, m.cfg.jobs)
	errs := make([]error, len(kernels))
	var wg sync.WaitGroup
	for i, k := range kernels {
		slots <- struct{}{} // in this order: those of other architectures are short, and come last
		wg.Go(func() {
			defer func() { <-slots }()
			dir := filepath.Join(m.dir, fmt.Sprintf("guest%d", i))
			errs[i] = m.runKernel(ctx, k, dir)
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return errors.Join(errs...)
}

// runKernel boots one guest and judges it. The error is this host's.
func (m *matrix) runKernel(ctx context.Context, k debkernel.Kernel, dir string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	modules, err := k.Modules(ctx, slices.Concat(diagModules, hostModules))
	if err != nil {
		return err
	}
	skip := func(b testBinary) string { return skipPattern(excluded(m.cfg.exclusions(), b.pkg)) }
	plan := makePlan(m.tests[k.Arch], modules, skip, m.cfg.timeout, guestEnv(k, m.cfg.short(), m.cfg.env))
	initramfs := filepath.Join(dir, "initramfs")
	im := image{init: m.init(k.Arch), plan: plan, modules: modules, tests: m.tests[k.Arch]}
	if err := im.write(initramfs); err != nil {
		return fmt.Errorf("write initramfs: %w", err)
	}

	start := time.Now()
	g := newGuestRun()
	console, guestErr := bootGuest(ctx, k, initramfs, dir, m.cfg.bootTimeout, plan, func(e guest.Event) {
		g.add(e)
		m.trace(k, e)
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if guestErr == nil && g.release != k.Release {
		guestErr = fmt.Errorf("guest runs kernel %s", g.release)
	}
	m.report(k, g, guestErr, console, time.Since(start))
	return nil
}

// trace prints test output as it comes.
func (m *matrix) trace(k debkernel.Kernel, e guest.Event) {
	if !m.cfg.verbose || e.Output == nil || nameLine.Match(e.Output) {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	fmt.Fprintf(m.out, "%s | %s\n", k.Name, readable(e.Output))
}

// report prints what failed, with its output, and the kernel's summary line.
func (m *matrix) report(k debkernel.Kernel, g *guestRun, guestErr error, console []byte, took time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var passed, failed int
	for _, b := range m.tests[k.Arch] {
		skipped := excluded(m.cfg.exclusions(), b.pkg)
		for _, e := range skipped {
			fmt.Fprintf(m.out, "%s: %s: %s excluded: %s\n", k.Release, b.pkg, e.test, e.reason)
		}
		v := judge(b.pkg, withoutExcluded(b.tests, skipped), g.packages[b.pkg], m.cfg.sel.bench != "")
		passed, failed = passed+v.passed, failed+v.failed
		m.reportPackage(k, v, g.packages[b.pkg])
		fmt.Fprintf(m.out, "%s %s: %d tests passed, %d failed, %.0f s\n", k.Name, b.pkg, v.passed, v.failed, g.took[b.pkg].Seconds())
	}
	if guestErr != nil {
		failed = max(failed, 1)
		fmt.Fprintf(m.out, "--- %s: %v\n", k.Release, guestErr)
	}
	if guestErr != nil || m.cfg.verbose {
		fmt.Fprintf(m.out, "kernel messages:\n%s\n", tail(console, 100))
	}
	word := "ok"
	if failed > 0 {
		word = "FAIL"
	}
	fmt.Fprintf(m.out, "%s %s: %d packages, %d tests passed, %d failed, %.0f s\n", word, k.Release, len(m.tests[k.Arch]), passed, failed, took.Seconds())
	m.passed, m.failed = m.passed+passed, m.failed+failed
}

func (m *matrix) reportPackage(k debkernel.Kernel, v verdict, p *packageRun) {
	if v.failed > 0 {
		fmt.Fprintf(m.out, "--- %s: %s:\n    %s\n", k.Release, v.pkg, strings.Join(v.problems, "\n    "))
	}
	bench := m.cfg.sel.bench != ""
	if p != nil && !m.cfg.verbose && (v.failed > 0 || bench) {
		fmt.Fprintf(m.out, "output of %s on %s:\n%s", v.pkg, k.Release, readable(withoutPassed(p.output)))
	}
}

// nameLine tells whose output follows; only test2json wants to know.
var nameLine = regexp.MustCompile(resultMark + `=== NAME .*\n?`)

// frameLine matches the start and the end of a test.
var frameLine = regexp.MustCompile(resultMark + `(?:=== RUN   |--- PASS: )(\S+).*\n`)

// withoutPassed drops the frames of tests that passed, but nothing they print.
func withoutPassed(output []byte) []byte {
	result := results(output)
	return frameLine.ReplaceAllFunc(output, func(line []byte) []byte {
		if name := frameLine.FindSubmatch(line)[1]; result[string(name)] == "PASS" {
			return nil
		}
		return line
	})
}

func readable(output []byte) []byte {
	output = nameLine.ReplaceAll(output, nil)
	return bytes.ReplaceAll(output, []byte(resultMark), nil)
}

func tail(b []byte, lines int) []byte {
	all := bytes.SplitAfter(b, []byte{'\n'})
	return bytes.Join(all[max(0, len(all)-lines):], nil)
}
