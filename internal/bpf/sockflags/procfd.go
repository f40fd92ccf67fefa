package sockflags

import (
	"context"
	"fmt"

	"sockstate_exporter/internal/linux"
)

// findSockets calls found for every socket that a process has open, until found returns false.
// Processes that end meanwhile or may not be looked into are left out.
func findSockets(ctx context.Context, found func(where descriptor, inode uint32) bool) error {
	pids, err := linux.PIDs("/proc")
	if err != nil {
		return fmt.Errorf("list processes: %w", err)
	}
	for _, pid := range pids {
		goOn := true
		// An error is of this process only.
		_ = linux.SocketFDs(ctx, fmt.Sprintf("/proc/%d/fd", pid), func(s linux.SocketFD) bool {
			goOn = found(descriptor{pid, s.FD}, s.Inode)
			return goOn
		})
		if !goOn || ctx.Err() != nil {
			break
		}
	}
	return ctx.Err()
}
