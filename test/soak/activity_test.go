package soak

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
)

// An activity makes sockets come and go in the network namespace of its thread, some in each round.
type activity struct {
	open  []int // descriptors that stay open for some rounds
	round func(*activity) error
}

// activities are all that one namespace has.
func activities() []*activity {
	return []*activity{
		{round: serve}, {round: serve}, {round: leaveTimeWaits}, {round: overflow}, {round: dropDatagrams},
		{round: failToBind}, {round: failToBind}, {round: failToListen}, {round: useUpRange},
	}
}

// run is inside the namespace, until stop is closed.
func (a *activity) run(stop <-chan struct{}) error {
	defer func() {
		for _, fd := range a.open {
			unix.Close(fd)
		}
	}()
	for {
		select {
		case <-stop:
			return nil
		case <-time.After(time.Duration(10+rand.IntN(40)) * time.Millisecond):
		}
		if err := a.round(a); err != nil {
			return err
		}
	}
}

// keep keeps a descriptor open, and closes others so that there are no more than most.
func (a *activity) keep(fd, most int) {
	a.open = append(a.open, fd)
	for len(a.open) > most || len(a.open) > 0 && rand.IntN(8) == 0 {
		i := rand.IntN(len(a.open))
		unix.Close(a.open[i])
		a.open[i] = a.open[len(a.open)-1]
		a.open = a.open[:len(a.open)-1]
	}
}

func oneOf[T any](all ...T) T { return all[rand.IntN(len(all))] }

// Where activities do something.
const (
	namedPort    = 4840  // --watch.port
	namedUDPPort = 5353  // the same
	servedPort   = 5000  // and the ports after it
	clientPort   = 40000 // in net.ipv4.ip_local_port_range
	groupPort    = 5100
	heldPort     = 7000
	rolePort     = 8000
)

// anyAddr is an address to listen on: of the host, or of all.
func anyAddr() netip.Addr {
	return oneOf(netip.IPv4Unspecified(), netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.AddrFrom4([4]byte{127, 0, 0, 2}),
		netip.IPv6Unspecified(), netip.IPv6Loopback())
}

func localhost() netip.Addr {
	return oneOf(netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback())
}

// An option of a socket that is set to 1.
type option struct{ level, name int }

func anyFlags() (flags []option) {
	for _, o := range []option{{unix.SOL_SOCKET, unix.SO_REUSEADDR}, {unix.SOL_SOCKET, unix.SO_REUSEPORT}} {
		if rand.IntN(2) == 0 {
			flags = append(flags, o)
		}
	}
	return flags
}

// openFor opens a socket of the family of an address, which does not block.
func openFor(addr netip.Addr, typ int, flags ...option) (int, error) {
	fd, err := unix.Socket(kerneltest.Family(addr), typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	if addr.Is6() && rand.IntN(2) == 0 {
		flags = append(flags, option{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY})
	}
	for _, o := range flags {
		if err := unix.SetsockoptInt(fd, o.level, o.name, 1); err != nil {
			unix.Close(fd)
			return -1, fmt.Errorf("setsockopt %d: %w", o.name, err)
		}
	}
	return fd, nil
}

// bindTo opens and binds a socket. It returns nil, and -1, where bind() fails with an error that is
// meant to come.
func bindTo(typ int, addr netip.Addr, port int, flags ...option) (int, error) {
	fd, err := openFor(addr, typ, flags...)
	if err != nil {
		return -1, err
	}
	switch err := unix.Bind(fd, kerneltest.Sockaddr(netip.AddrPortFrom(addr, uint16(port)))); err {
	case nil:
		return fd, nil
	case unix.EADDRINUSE, unix.EADDRNOTAVAIL, unix.EACCES:
		unix.Close(fd)
		return -1, nil
	default:
		unix.Close(fd)
		return -1, fmt.Errorf("bind to %v port %d: %w", addr, port, err)
	}
}

// listenTo is bindTo with listen(), which may fail as well.
func listenTo(addr netip.Addr, port, backlog int, flags ...option) (int, error) {
	fd, err := bindTo(unix.SOCK_STREAM, addr, port, flags...)
	if fd < 0 {
		return -1, err
	}
	if err := unix.Listen(fd, backlog); err != nil {
		unix.Close(fd)
		if err == unix.EADDRINUSE {
			return -1, nil
		}
		return -1, fmt.Errorf("listen: %w", err)
	}
	return fd, nil
}

// dial begins to connect to a port of localhost.
func dial(addr netip.Addr, port int) (int, error) {
	fd, err := openFor(addr, unix.SOCK_STREAM)
	if err != nil {
		return -1, err
	}
	_ = unix.Connect(fd, kerneltest.Sockaddr(netip.AddrPortFrom(addr, uint16(port)))) // may be refused
	return fd, nil
}

// serve has listeners on ports that have a name, are found, and are in the range of client ports.
// Clients come and go, and some are accepted.
func serve(a *activity) error {
	port := oneOf(namedPort, namedPort+1, servedPort+rand.IntN(20), servedPort+rand.IntN(20), clientPort+rand.IntN(10))
	fd, err := listenTo(anyAddr(), port, oneOf(0, 1, 16), anyFlags()...)
	if err != nil {
		return err
	}
	for range rand.IntN(4) {
		client, err := dial(localhost(), port)
		if err != nil {
			return err
		}
		if fd >= 0 && rand.IntN(2) == 0 {
			if conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC); err == nil {
				a.keep(conn, 40)
			}
		}
		a.keep(client, 40)
	}
	if fd >= 0 {
		a.keep(fd, 40)
	}
	return nil
}

// leaveTimeWaits closes connections on the side of the server first.
func leaveTimeWaits(*activity) error {
	addr, port := localhost(), servedPort+50+rand.IntN(3)
	server, err := listenTo(addr, port, 16, option{unix.SOL_SOCKET, unix.SO_REUSEADDR})
	if server < 0 {
		return err
	}
	defer unix.Close(server)
	for range 4 {
		client, err := dial(addr, port)
		if err != nil {
			return err
		}
		if kerneltest.WaitFor(server, unix.POLLIN) == nil {
			if conn, _, err := unix.Accept4(server, unix.SOCK_CLOEXEC); err == nil {
				unix.Close(conn)
			}
		}
		unix.Close(client)
	}
	return nil
}

// overflow has SO_REUSEPORT groups that grow and shrink, and whose members accept nobody.
func overflow(a *activity) error {
	addr, port := localhost(), groupPort+rand.IntN(2)
	fd, err := listenTo(addr, port, rand.IntN(2), option{unix.SOL_SOCKET, unix.SO_REUSEPORT})
	if err != nil {
		return err
	}
	if fd >= 0 {
		a.keep(fd, 12)
	}
	for range 8 {
		client, err := dial(addr, port)
		if err != nil {
			return err
		}
		defer unix.Close(client)
	}
	return nil
}

// dropDatagrams has UDP sockets with little room that read nothing.
func dropDatagrams(a *activity) error {
	addr, port := localhost(), oneOf(namedUDPPort, 6000+rand.IntN(5), clientPort+rand.IntN(5))
	fd, err := bindTo(unix.SOCK_DGRAM, addr, port, anyFlags()...)
	if err != nil {
		return err
	}
	if fd >= 0 {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1) // the kernel takes its least
		a.keep(fd, 12)
	}
	client, err := openFor(addr, unix.SOCK_DGRAM)
	if err != nil {
		return err
	}
	defer unix.Close(client)
	for range 20 {
		_ = unix.Sendto(client, make([]byte, 900), 0, kerneltest.Sockaddr(netip.AddrPortFrom(addr, uint16(port))))
	}
	return nil
}

// failToBind binds to ports that are held, to addresses that the host does not have, and in ways that
// make no sense.
func failToBind(a *activity) error {
	addr, port, typ := anyAddr(), heldPort+rand.IntN(10), oneOf(unix.SOCK_STREAM, unix.SOCK_STREAM, unix.SOCK_DGRAM)
	switch rand.IntN(4) {
	case 0:
		addr = oneOf(netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1"))
	case 1:
		addr, port = oneOf(netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")), 1+rand.IntN(65535)
	}
	fd, err := bindTo(typ, addr, port, anyFlags()...)
	if fd < 0 {
		return err
	}
	if rand.IntN(4) == 0 { // EINVAL: it is bound already
		_ = unix.Bind(fd, kerneltest.Sockaddr(netip.AddrPortFrom(addr, uint16(port))))
	}
	a.keep(fd, 20) // it may close this one, whose number is another socket's then
	return nil
}

// failToListen has two sockets with SO_REUSEADDR on a port. The second listen() fails.
func failToListen(*activity) error {
	addr, port := localhost(), servedPort+60+rand.IntN(3)
	var fds [2]int
	for i := range fds {
		fd, err := bindTo(unix.SOCK_STREAM, addr, port, option{unix.SOL_SOCKET, unix.SO_REUSEADDR})
		if fd < 0 {
			return err
		}
		defer unix.Close(fd)
		fds[i] = fd
	}
	for _, fd := range fds {
		_ = unix.Listen(fd, 1)
	}
	return nil
}

// useUpRange has sockets with a range of one port (IP_LOCAL_PORT_RANGE), which do not find it free.
func useUpRange(*activity) error {
	addr := localhost()
	for range 2 {
		fd, err := openFor(addr, unix.SOCK_STREAM)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_LOCAL_PORT_RANGE, 40100|40100<<16) != nil {
			return nil // before Linux 6.3
		}
		_ = unix.Bind(fd, kerneltest.Sockaddr(netip.AddrPortFrom(addr, 0)))
	}
	return nil
}

// useUpPorts has clients and servers in a namespace with four ephemeral ports.
func useUpPorts(a *activity) error {
	addr := localhost()
	if fd, err := bindTo(unix.SOCK_STREAM, addr, 0); err != nil {
		return err
	} else if fd >= 0 {
		a.keep(fd, 4)
	}
	server, err := listenTo(addr, servedPort, 64, option{unix.SOL_SOCKET, unix.SO_REUSEADDR})
	if server < 0 {
		return err
	}
	defer unix.Close(server)
	for range 6 {
		fd, err := dial(addr, servedPort)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
	}
	return nil
}

// actForAWhile is a process of a user that listens, fails to bind, and ends.
func actForAWhile(args []string) error {
	uid, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	if err := errors.Join(syscall.Setgid(uid), syscall.Setuid(uid)); err != nil {
		return err
	}
	for range 1 + rand.IntN(10) {
		// EACCES below 1024.
		port := oneOf(80, 443, rolePort+rand.IntN(10), heldPort+rand.IntN(10), namedPort, servedPort+rand.IntN(20))
		fd, err := listenTo(anyAddr(), port, 1, anyFlags()...)
		if err != nil {
			return err
		}
		if fd >= 0 {
			defer unix.Close(fd)
		}
		time.Sleep(time.Duration(rand.IntN(50)) * time.Millisecond)
	}
	return nil
}

// startProcesses starts processes of several users, one after another, until stop is closed.
func startProcesses(command func(uid string) *kerneltest.Cmd, stop <-chan struct{}) error {
	for {
		select {
		case <-stop:
			return nil
		case <-time.After(time.Duration(rand.IntN(400)) * time.Millisecond):
		}
		cmd := command(strconv.Itoa(1000 + rand.IntN(8)))
		var exit *exec.ExitError
		if err := cmd.Run(); errors.As(err, &exit) {
			return fmt.Errorf("a process of a user: %w", err)
		} else if err != nil {
			return err
		}
	}
}
