//go:build linux

package bindtrace

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"unsafe" //nolint:depguard // landlock(7) has no wrapper

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/reexec"
)

const (
	unprivilegedStart = 8090
	lowPort, highPort = 8088, 8091
)

// refused binds to a port of IPv4 and of IPv6 loopback: the kernel refuses it.
func refused(port uint16) error {
	for _, addr := range []string{"127.0.0.1", "::1"} {
		at := netip.AddrPortFrom(netip.MustParseAddr(addr), port)
		fd, err := unix.Socket(kerneltest.Family(at.Addr()), unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		err = unix.Bind(fd, kerneltest.Sockaddr(at))
		_ = unix.Close(fd)
		if !errors.Is(err, unix.EACCES) {
			return fmt.Errorf("bind to %v: want EACCES, got %v", at, err)
		}
	}
	return nil
}

// bindLow is a process that fails to bind to a low port.
func bindLow([]string) error { return refused(lowPort) }

// refuseBinds makes Landlock refuse the binds of the calling thread (Linux 6.7).
func refuseBinds(t *testing.T) bool {
	t.Helper()
	attr := unix.LandlockRulesetAttr{Handled_access_net: unix.LANDLOCK_ACCESS_NET_BIND_TCP}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		t.Logf("Landlock cannot refuse binds here: %v", errno)
		return false
	}
	defer unix.Close(int(fd))
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); errno != 0 {
		t.Fatal(errno)
	}
	return true
}

// EACCES comes from a lack of CAP_NET_BIND_SERVICE, or from a security module. The event has what tells
// them apart.
func TestEventOfEACCESSaysWhetherAPrivilegeIsMissing(t *testing.T) {
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		ns := kerneltest.New(t)
		ns.Sysctl(t, "net.ipv4.ip_unprivileged_port_start", strconv.Itoa(unprivilegedStart))
		watchOnly(t, tr, ns)
		check := func(t *testing.T, port uint16, lacked bool) {
			t.Helper()
			for range 2 {
				e := nextEvent(t, tr, uint32(ns.Inode()))
				if e.Port != port || e.Errno != unix.EACCES || e.UnprivilegedStart != unprivilegedStart || e.PrivilegeLacked != lacked {
					t.Errorf("event %+v: want EACCES for port %d, the sysctl %d, and that the privilege lacks: %t", e, port, unprivilegedStart, lacked)
				}
			}
		}
		t.Run("thread without the capability", func(t *testing.T) {
			ns.Do(t, func() {
				dropCap(t, unix.CAP_NET_BIND_SERVICE)
				if err := refused(lowPort); err != nil {
					t.Error(err)
				}
			})
			check(t, lowPort, true)
		})
		t.Run("another user", func(t *testing.T) {
			cmd := ns.Command(t, "/proc/self/exe").As(hostileUID, hostileUID)
			cmd.Env, cmd.Stderr = reexec.RoleEnv("bind-low"), os.Stderr
			if err := cmd.Run(); err != nil {
				t.Fatal(err)
			}
			check(t, lowPort, true)
		})
		t.Run("all capabilities, in another user namespace", func(t *testing.T) {
			cmd := ns.Command(t, "/proc/self/exe")
			cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWUSER
			cmd.Env, cmd.Stderr = reexec.RoleEnv("bind-low"), os.Stderr
			if err := cmd.Run(); err != nil {
				kerneltest.Skip(t, "no user namespace: %v", err)
			}
			check(t, lowPort, true)
		})
		t.Run("Landlock", func(t *testing.T) {
			for _, port := range []uint16{lowPort, highPort} {
				refuses := false
				ns.Do(t, func() {
					if refuses = refuseBinds(t); !refuses {
						return
					}
					if err := refused(port); err != nil {
						t.Error(err)
					}
				})
				if refuses {
					check(t, port, false)
				}
			}
		})
		t.Run("other errors have none", func(t *testing.T) {
			ns.Do(t, func() {
				if err := failOnce(testPort); err != nil {
					t.Error(err)
				}
			})
			if e := nextEvent(t, tr, uint32(ns.Inode())); e.UnprivilegedStart >= 0 || e.PrivilegeLacked {
				t.Errorf("event %+v has a sysctl", e)
			}
		})
	})
}
