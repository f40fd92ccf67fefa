package command

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
)

// Output runs a program in directory dir and returns what it wrote to its
// standard output. See Run.
func Output(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	return Run(ctx, cmd)
}

// Run runs a command that was made with ctx, and returns its standard output.
// If it fails, the error contains all that it wrote. If ctx ended, the error is
// the cause of that.
func Run(ctx context.Context, cmd *exec.Cmd) ([]byte, error) {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s%s", cmd.Args[0], err, out, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}
