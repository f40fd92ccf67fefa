package situations

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/reexec"
)

// play takes steps, each a verb with arguments: "listen=0.0.0.0:80,reuseaddr". The sockets stay open until
// the process ends.
func play(steps []string) error {
	// Many servers do not bind on their main thread.
	return reexec.OnThread("1_scheduler", func() error {
		for _, step := range steps {
			verb, args, _ := strings.Cut(step, "=")
			if err := verbs()[verb](strings.Split(args, ",")); err != nil {
				return fmt.Errorf("%s: %w", step, err)
			}
		}
		return nil
	})
}

func verbs() map[string]func(args []string) error {
	return map[string]func(args []string) error{
		"bind":    func(args []string) error { _, err := bind(args); return err },
		"listen":  func(args []string) error { _, err := listen(args); return err },
		"fail":    fail,
		"twice":   bindTwice,
		"second":  listenSecond,
		"noport":  findNoPort,
		"connect": connect,
		"accept":  acceptAndStop,
		"join":    func(args []string) error { return os.WriteFile(filepath.Join(args[0], "cgroup.procs"), []byte("0"), 0) },
		"wait":    wait,
		"hold":    hold,
		"child":   leaveToChild,
		"talk":    talk,
	}
}

// bind makes a socket of an address and flags, and binds it.
func bind(args []string) (int, error) {
	at, err := netip.ParseAddrPort(args[0])
	if err != nil {
		return -1, err
	}
	has := func(flag string) bool { return slices.Contains(args, flag) }
	typ, protocol := unix.SOCK_STREAM, 0
	switch {
	case has("udp"):
		typ = unix.SOCK_DGRAM
	case has("udplite"):
		typ, protocol = unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE
	}
	fd, err := unix.Socket(kerneltest.Family(at.Addr()), typ, protocol)
	if err != nil {
		return -1, err
	}
	for _, o := range []struct {
		flag              string
		level, opt, value int
	}{
		{"reuseaddr", unix.SOL_SOCKET, unix.SO_REUSEADDR, 1},
		{"reuseport", unix.SOL_SOCKET, unix.SO_REUSEPORT, 1},
		{"v6only", unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1},
		{"freebind", unix.IPPROTO_IP, unix.IP_FREEBIND, 1},
		{"range", unix.IPPROTO_IP, unix.IP_LOCAL_PORT_RANGE, int(fewClients.First) | int(fewClients.First)<<16},
	} {
		if has(o.flag) {
			if err := unix.SetsockoptInt(fd, o.level, o.opt, o.value); err != nil {
				return -1, fmt.Errorf("%s: %w", o.flag, err)
			}
		}
	}
	sa := kerneltest.Sockaddr(at)
	if v6, ok := sa.(*unix.SockaddrInet6); ok && at.Addr().Zone() != "" {
		if _, err := fmt.Sscan(at.Addr().Zone(), &v6.ZoneId); err != nil {
			return -1, err
		}
	}
	return fd, unix.Bind(fd, sa)
}

// talk binds a UDP socket to the first address, and connects it to the second.
func talk(args []string) error {
	fd, err := bind([]string{args[0], "udp"})
	if err != nil {
		return err
	}
	peer := netip.MustParseAddrPort(args[1])
	fmt.Println("peer", peer)
	return unix.Connect(fd, kerneltest.Sockaddr(peer))
}

func listen(args []string) (int, error) {
	fd, err := bind(args)
	if err != nil {
		return -1, err
	}
	return fd, unix.Listen(fd, 16)
}

// fail makes a bind that has to fail with the error that the last argument names.
func fail(args []string) error {
	_, err := bind(args)
	want := args[len(args)-1]
	var errno unix.Errno
	if !errors.As(err, &errno) || unix.ErrnoName(errno) != want {
		return fmt.Errorf("bind: %w, want %s", err, want)
	}
	return nil
}

func bindTwice(args []string) error {
	fd, err := bind(args)
	if err != nil {
		return err
	}
	at := kerneltest.Sockaddr(netip.MustParseAddrPort(args[0]))
	if err := unix.Bind(fd, at); !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("the second bind: %w, want EINVAL", err)
	}
	return nil
}

// listenSecond binds, waits for a byte of the test, and then makes a listen() that has to fail.
func listenSecond(args []string) error {
	fd, err := bind(args)
	if err == nil {
		err = wait(nil)
	}
	if err == nil {
		if err = unix.Listen(fd, 16); errors.Is(err, unix.EADDRINUSE) {
			return nil
		}
	}
	return fmt.Errorf("listen: %w, want EADDRINUSE", err)
}

// findNoPort makes a connect() that has to find no local port.
func findNoPort(args []string) error {
	err := connect([]string{"0.0.0.0:0", args[0]})
	if errors.Is(err, unix.EADDRNOTAVAIL) {
		return nil
	}
	return fmt.Errorf("connect: %w, want EADDRNOTAVAIL", err)
}

// connect connects from the first address to the second. Port 0 lets the kernel choose.
func connect(args []string) error {
	from, to := netip.MustParseAddrPort(args[0]), netip.MustParseAddrPort(args[1])
	fd, err := unix.Socket(kerneltest.Family(to.Addr()), unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	if from.Port() != 0 {
		err = unix.Bind(fd, kerneltest.Sockaddr(from))
	}
	if err != nil {
		return err
	}
	return unix.Connect(fd, kerneltest.Sockaddr(to))
}

// acceptAndStop listens, accepts a connection, and stops to listen. It prints the peer.
func acceptAndStop(args []string) error {
	l, err := listen(args)
	if err != nil {
		return err
	}
	client, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	to := netip.AddrPortFrom(localhost, netip.MustParseAddrPort(args[0]).Port())
	if err := unix.Connect(client, kerneltest.Sockaddr(to)); err != nil {
		return err
	}
	_, peer, err := unix.Accept(l)
	if err != nil {
		return err
	}
	if slices.Contains(args, "half") {
		err = unix.Shutdown(client, unix.SHUT_WR)
	}
	fmt.Println("peer", kerneltest.AddrPort(peer))
	return errors.Join(err, unix.Close(l))
}

// wait waits for a byte of the test.
func wait([]string) error {
	fmt.Println("ready", os.Getpid())
	_, err := os.Stdin.Read(make([]byte, 1))
	return err
}

// hold waits until the test closes the standard input.
func hold([]string) error {
	fmt.Println("ready", os.Getpid())
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// leaveToChild starts a program that inherits all sockets.
func leaveToChild(args []string) error {
	cmd := exec.Command(args[0], "hold")
	cmd.Env = reexec.RoleEnv(player)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Start()
}
