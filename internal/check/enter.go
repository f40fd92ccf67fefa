package check

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/psx"
)

// namedNetNS is where ip(8) keeps network namespaces by name.
const namedNetNS = "/run/netns"

// enter moves the process, all of its threads, into a network namespace: the name of one, or a
// path. There is no way back, and the command needs none.
func enter(namespace string) error {
	path := namespace
	if !strings.Contains(namespace, "/") {
		path = filepath.Join(namedNetNS, namespace)
	}
	file, err := os.Open(path)
	switch {
	case errors.Is(err, os.ErrNotExist) && path != namespace:
		return fmt.Errorf("no network namespace of that name in %s; `ip netns` lists those there are", namedNetNS)
	case err != nil:
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer file.Close()
	switch _, _, errno := psx.Syscall3(unix.SYS_SETNS, file.Fd(), unix.CLONE_NEWNET, 0); errno {
	case 0:
		return nil
	case unix.EINVAL:
		return fmt.Errorf("%s is not a network namespace", path)
	case unix.EPERM:
		return fmt.Errorf("enter network namespace: needs CAP_SYS_ADMIN: %w", errno)
	default:
		return fmt.Errorf("enter network namespace: %w", errno)
	}
}
