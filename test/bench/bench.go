package main

import (
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
)

const nodeExporterPackage = "github.com/prometheus/node_exporter@v1.12.1"

// bench is what all tables need.
type bench struct {
	opts         options
	progress     io.Writer
	exporter     *os.File // our binary
	nodeExporter string   // empty where it is not installed
	ss           string   // likewise
}

func newBench(ctx context.Context, opts options, progress io.Writer) (*bench, error) {
	ns, err := kerneltest.Open()
	if errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("%w: be root, or run this under `unshare --user --map-root-user`", err)
	}
	if err != nil {
		return nil, err
	}
	if err := ns.Close(); err != nil {
		return nil, err
	}

	b := &bench{opts: opts, progress: progress}
	if opts.exporter != "" {
		b.exporter, err = os.Open(opts.exporter)
	} else {
		b.exporter, err = build(ctx, progress)
	}
	if err != nil {
		return nil, err
	}
	if b.nodeExporter, err = findNodeExporter(ctx); err != nil {
		fmt.Fprintf(progress, "without node_exporter: %v; to install it: go install %s\n", err, nodeExporterPackage)
	}
	if b.ss, err = exec.LookPath("ss"); err != nil {
		fmt.Fprintf(progress, "without ss: %v; it is in the package iproute2\n", err)
	}
	return b, nil
}

func (b *bench) close() { _ = b.exporter.Close() }

// path names our binary for as long as it is open.
func (b *bench) path() string { return fmt.Sprintf("/proc/self/fd/%d", b.exporter.Fd()) }

// build builds the exporter and returns it open, without a name: nothing has to be
// removed afterwards.
func build(ctx context.Context, progress io.Writer) (*os.File, error) {
	dir, err := os.MkdirTemp("", "sockstate-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	path := filepath.Join(dir, "sockstate_exporter")

	fmt.Fprintln(progress, "building the exporter")
	cmd := exec.CommandContext(ctx, "go", "build", "-C", "..", "-trimpath", "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stderr = progress
	// Pdeathsig is sent when the thread that forked ends, not the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("build the exporter: %w", err)
	}
	return os.Open(path)
}

// findNodeExporter looks in PATH and where `go install` puts it.
func findNodeExporter(ctx context.Context) (string, error) {
	path, lookErr := exec.LookPath("node_exporter")
	if lookErr == nil {
		return path, nil
	}
	out, err := exec.CommandContext(ctx, "go", "env", "GOBIN", "GOPATH").Output()
	if err != nil {
		return "", errors.Join(lookErr, err)
	}
	gobin, gopath, _ := strings.Cut(strings.TrimSuffix(string(out), "\n"), "\n")
	dirs := []string{gobin}
	for _, dir := range filepath.SplitList(gopath) {
		dirs = append(dirs, filepath.Join(dir, "bin"))
	}
	for _, dir := range dirs {
		if dir == "" {
			continue
		}
		if path, err := exec.LookPath(filepath.Join(dir, "node_exporter")); err == nil {
			return path, nil
		}
	}
	return "", lookErr
}

// inNetNS calls f with a new namespace.
func (b *bench) inNetNS(ctx context.Context, f func(*kerneltest.NetNS) error) error {
	ns, err := kerneltest.Open()
	if err != nil {
		return err
	}
	err = errors.Join(f(ns), ns.Close())
	if err != nil {
		return err
	}
	// The kernel takes the sockets away with the namespace (tcp_sk_exit_batch), but not at
	// once, and until then they stand in the table that the next ones walk.
	return sleep(ctx, 3*time.Second)
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// facts describe the machine.
func (b *bench) facts(ctx context.Context) []string {
	facts := []string{
		fmt.Sprintf("%d CPUs (%s), load %s", runtime.NumCPU(), cpuModel(), firstLine("/proc/loadavg")),
		fmt.Sprintf("%s, established hash of %s buckets", kernelRelease(), hashBuckets()),
		runtime.Version() + " " + runtime.GOARCH,
	}
	if b.ss != "" {
		facts = append(facts, versionOf(ctx, b.ss, "-V"))
	}
	if b.nodeExporter != "" {
		facts = append(facts, "node_exporter "+moduleVersion(b.nodeExporter))
	}
	return facts
}

func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err.Error()
	}
	return "Linux " + unix.ByteSliceToString(u.Release[:])
}

// hashBuckets is the size of the table that every dump walks. It is negative where a
// namespace shares that of the host, as is usual (proc_tcp_ehash_entries).
func hashBuckets() string {
	return strings.TrimPrefix(firstLine("/proc/sys/net/ipv4/tcp_ehash_entries"), "-")
}

func cpuModel() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return err.Error()
	}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func firstLine(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return line
}

// moduleVersion is the version that `go install` built; --version knows only of releases.
func moduleVersion(path string) string {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return info.Main.Version
}

func versionOf(ctx context.Context, path, arg string) string {
	out, err := exec.CommandContext(ctx, path, arg).CombinedOutput()
	if err != nil {
		return fmt.Sprintf("%s: %v", filepath.Base(path), err)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}
