//go:build linux

package bindtrace

import (
	"bytes"
	"fmt"
	"os"
)

// findTracefs reports errNoTracefs unless tracefs, or debugfs which mounts it
// below tracing/, is mounted. It is asked before cilium/ebpf, which remembers
// a negative answer for as long as the process lives.
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
