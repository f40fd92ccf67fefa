//go:build linux

package bindtrace

import (
	"bytes"
	"fmt"
	"os"
)

// findTracefs returns errNoTracefs unless tracefs is mounted, or debugfs, which mounts it below
// tracing/. cilium/ebpf must not look for it first: it keeps a negative answer as long as the
// process lives.
func findTracefs() error {
	mounts, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return fmt.Errorf("look for tracefs: %w", err)
	}
	for _, fs := range []string{" - tracefs ", " - debugfs "} {
		if bytes.Contains(mounts, []byte(fs)) {
			return nil
		}
	}
	return errNoTracefs
}
