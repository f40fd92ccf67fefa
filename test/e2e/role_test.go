package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/test/launch"
)

// roles are the processes that tests start.
func roles() map[string]func(args []string) error {
	return map[string]func(args []string) error{
		"exporter": becomeExporter,
		"server":   serve,
		"storm":    storm,
	}
}

const ipv4Sysctls = "/proc/sys/net/ipv4"

// becomeExporter runs the exporter on the socket that it inherited, descriptor 3,
// as sd_listen_fds(3) wants it. args are files that it shall find empty, separated by commas,
// the directory that it shall find in the place of ipv4Sysctls, and its flags.
func becomeExporter(args []string) error {
	for _, path := range strings.FieldsFunc(args[0], func(r rune) bool { return r == ',' }) {
		if err := unix.Mount("/dev/null", path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount over %s: %w", path, err)
		}
	}
	if sysctls := args[1]; sysctls != "" {
		if err := unix.Mount(sysctls, ipv4Sysctls, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s on %s: %w", sysctls, ipv4Sysctls, err)
		}
	}
	env := append(os.Environ(), "LISTEN_PID="+strconv.Itoa(os.Getpid()), "LISTEN_FDS=1")
	return unix.Exec(launch.Path, append([]string{"sockstate_exporter"}, args[2:]...), env)
}

// serve is a server as many are: without SO_REUSEADDR, trying again while its port is taken,
// and saying what it does. With a second argument it sets SO_REUSEPORT, with a third it is one of UDP that never
// reads.
func serve(args []string) error {
	addr, err := netip.ParseAddrPort(args[0])
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	// A bind fails in a thread; a listener is of a process.
	for _, comm := range []string{"/proc/thread-self/comm", "/proc/self/comm"} {
		if err := os.WriteFile(comm, []byte("opcua-server"), 0); err != nil {
			return err
		}
	}
	typ := unix.SOCK_STREAM
	if len(args) > 2 {
		typ = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(unix.AF_INET, typ|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	if len(args) > 1 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
			return fmt.Errorf("set SO_REUSEPORT: %w", err)
		}
	}
	sa := &unix.SockaddrInet4{Addr: addr.Addr().As4(), Port: int(addr.Port())}
	for tries := 0; ; tries++ {
		err := unix.Bind(fd, sa)
		if err == nil {
			break
		}
		if tries == 0 {
			fmt.Println("bind:", err)
		}
		time.Sleep(200 * time.Millisecond)
	}
	if typ == unix.SOCK_DGRAM {
		fmt.Println("listening")
		for {
			_ = unix.Pause()
		}
	}
	if err := unix.Listen(fd, 100); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	fmt.Println("listening")
	for n := 1; ; n++ {
		// Kept open until the process ends.
		if _, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC); err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		fmt.Println("accepted", n)
	}
}

// storm is a process whose binds fail, as often as its argument says.
func storm(args []string) error {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	foreign := &unix.SockaddrInet4{Addr: [4]byte{192, 0, 2, 1}, Port: 4840}
	for range n {
		if err := unix.Bind(fd, foreign); !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("bind: %w, want EADDRNOTAVAIL", err)
		}
	}
	return nil
}
