package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/test/launch"
)

// An exporter runs in a namespace, and is scraped in the monitor's.
type exporter struct {
	instance string
	ns       *kerneltest.NetNS
	args     []string
	nobody   bool     // as an ordinary user
	empty    []string // files that it finds empty
	sysctls  string   // the directory that it finds in the place of /proc/sys/net/ipv4

	socket *os.File
	*launch.Exporter
}

// serveOn gives the exporter its socket.
func (e *exporter) serveOn(t *testing.T, ns *kerneltest.NetNS, addr netip.AddrPort) {
	t.Helper()
	l := ns.Listen(t, addr, kerneltest.Options{})
	e.socket = os.NewFile(uintptr(dup(t, l.FD())), "socket")
	t.Cleanup(func() { e.socket.Close() })
}

func dup(t *testing.T, fd int) int {
	t.Helper()
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// start starts the exporter. What is scraped before it is ready waits in its socket.
func (e *exporter) start(t *testing.T) {
	t.Helper()
	args := append([]string{strings.Join(e.empty, ","), e.sysctls, "--web.systemd-socket"}, e.args...)
	e.Exporter = launch.Of(t, e.ns, launch.Address, launch.InRole(t, e.ns, "exporter", args...))
	e.Binary = launch.Binary(t)
	e.Cmd.ExtraFiles = []*os.File{e.socket} // descriptor 3
	e.Cmd.Dir = "/"
	if e.nobody {
		e.Cmd.As(65534, 65534)
	}
	if len(e.empty) > 0 || e.sysctls != "" {
		e.Cmd.SysProcAttr = &unix.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	}
	show(t, "exporter "+e.instance, e.Log)
	e.Start(t)
}

// restart kills the exporter and starts another one.
func (e *exporter) restart(t *testing.T) {
	t.Helper()
	e.Stop()
	e.start(t)
}

func loopback(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
}

func watch(ports ...uint16) []string {
	var args []string
	for _, p := range ports {
		args = append(args, fmt.Sprintf("--watch.port=%d", p))
	}
	return args
}
