package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"sockstate_exporter/test/launch"
)

// An exporter is the binary that is shown.
type exporter struct {
	path string
	cmd  *exec.Cmd
}

// startExporter starts it and waits until it is ready.
func startExporter(ctx context.Context, path string) (*exporter, error) {
	e := &exporter{path: path}
	e.cmd = exec.CommandContext(ctx, path, append(watching(), "--web.listen-address="+launch.Address, "--log.level=error")...)
	e.cmd.Stderr = os.Stderr
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := e.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the exporter: %w", err)
	}
	if err := launch.Await(ctx, http.DefaultClient, "http://"+launch.Address+"/-/ready", func() error { return nil }); err != nil {
		e.stop()
		return nil, fmt.Errorf("wait for the exporter: %w", err)
	}
	return e, nil
}

func watching() []string {
	return []string{"--no-watch.listeners", fmt.Sprintf("--watch.port=%d", lacking), fmt.Sprintf("--watch.port=%d", having)}
}

func (e *exporter) stop() {
	_ = e.cmd.Process.Kill()
	_ = e.cmd.Wait()
}

func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(10 * time.Millisecond):
		return nil
	}
}

func get(ctx context.Context, page string) (string, error) {
	status, body, err := launch.Get(ctx, http.DefaultClient, "http://"+launch.Address+page)
	if err == nil && status != http.StatusOK {
		err = errors.New(http.StatusText(status))
	}
	return body, err
}

// metrics are the samples with one of the names, of the port in this namespace.
func metrics(ctx context.Context, port int, names []string) ([]string, error) {
	body, err := get(ctx, "/metrics")
	if err != nil {
		return nil, fmt.Errorf("scrape: %w", err)
	}
	var out []string
	number := fmt.Sprintf(`port="%d"`, port)
	for line := range strings.Lines(body) {
		name, _, _ := strings.Cut(line, "{")
		if slices.Contains(names, name) && strings.Contains(line, number) && !strings.Contains(line, "netns=") {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out, nil
}

// check runs the check command and returns what it wrote and its exit status.
func (e *exporter) check(ctx context.Context, args ...string) (text string, status int, err error) {
	cmd := exec.CommandContext(ctx, e.path, append([]string{"check"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return "", 0, fmt.Errorf("run check: %w", err)
	}
	return string(out), cmd.ProcessState.ExitCode(), nil
}
