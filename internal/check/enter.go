package check

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/psx"

	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/sock"
)

// namedNetNS is where ip(8) keeps network namespaces by name.
const namedNetNS = "/run/netns"

// enter moves the process, all of its threads, into a network namespace: the name of one, a path, or what
// the exporter calls the namespace of a container. There is no way back, and the command needs none.
func enter(namespace string, containerOf func(pid int) (named sock.Container, id string)) error {
	path, err := findNetNS(namespace, containerOf)
	if err != nil {
		return err
	}
	file, err := os.Open(path)
	if err != nil {
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

// findNetNS returns a path of the namespace.
func findNetNS(namespace string, containerOf func(int) (sock.Container, string)) (string, error) {
	if strings.HasPrefix(namespace, "/") || strings.HasPrefix(namespace, "./") || strings.HasPrefix(namespace, "../") {
		return namespace, nil
	}
	if !strings.Contains(namespace, "/") {
		path := filepath.Join(namedNetNS, namespace)
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			return path, nil
		}
	}
	switch found := netNSOfContainer(namespace, containerOf); len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", fmt.Errorf("no network namespace of that name in %s (`ip netns` lists them), and no such pod (NAMESPACE/POD) or container that this user may look at", namedNetNS)
	default:
		return "", fmt.Errorf("several network namespaces have that name: take a path, %s", strings.Join(found, " or "))
	}
}

// netNSOfContainer looks through all processes for a pod, a container, or the number in "web
// (net:[4026532317])", as the exporter calls the second namespace of one name. A container that is in
// the namespace of another one counts if there is no other.
func netNSOfContainer(namespace string, containerOf func(int) (sock.Container, string)) (paths []string) {
	number := strings.TrimSuffix(namespace[max(0, strings.LastIndex(namespace, "net:[")):], ")")
	wanted, isNumber := linux.LinkInode("net", number)
	pids, _ := linux.PIDs("/proc")
	var seen []uint64
	var joined []string
	for _, pid := range pids {
		path := fmt.Sprintf("/proc/%d/ns/net", pid)
		link, _ := os.Readlink(path) // empty where this user may not look
		inode, ok := linux.LinkInode("net", link)
		if !ok || slices.Contains(seen, inode) {
			continue
		}
		named, id := containerOf(pid)
		switch is := named.String() == namespace || id == namespace; {
		case isNumber && inode == wanted, is && !named.Joined:
			seen, paths = append(seen, inode), append(paths, path)
		case is:
			joined = append(joined, path)
		}
	}
	if len(paths) == 0 && len(joined) > 0 {
		return joined[:1]
	}
	return paths
}
