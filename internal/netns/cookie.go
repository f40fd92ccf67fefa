package netns

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/linux"
)

// cookies sets the cookies of the namespaces, where the kernel has them. It closes the namespaces
// that the caller may not enter.
func cookies(all []*Namespace) error {
	if len(all) == 0 {
		return nil
	}
	return linux.RunOnThread(func() error {
		var errs []error
		for _, n := range all {
			if err := linux.EnterNetNS(n.FD()); err != nil {
				errs = append(errs, fmt.Errorf("network namespace %s: %w", n.path, err))
				_ = n.Close()
				continue
			}
			cookie, err := linux.NetNSCookie()
			if err != nil && !errors.Is(err, unix.ENOPROTOOPT) {
				errs = append(errs, fmt.Errorf("network namespace %s: read cookie: %w", n.path, err))
			}
			n.ID.Cookie = cookie
		}
		return joinSome(errs)
	})
}
