package diagnosis

import (
	"fmt"
	"syscall"

	"sockstate_exporter/internal/words"
)

// ofErrno is the diagnosis of an error other than EADDRINUSE.
func ofErrno(f *Facts) Diagnosis {
	switch f.Errno {
	case syscall.EADDRNOTAVAIL:
		return ofAddress(f)
	case syscall.EACCES:
		return ofPrivilege(f)
	case syscall.EPERM:
		return simple(DeniedByPolicy, untilChanged(), "a security module, or a BPF program of the process's cgroup, refused the call")
	case syscall.EINVAL:
		return simple(InvalidCall, untilChanged(), "the socket is bound already, or the address makes no sense for it")
	case syscall.EAFNOSUPPORT:
		return simple(InvalidCall, untilChanged(), "the address is of another family than the socket")
	case syscall.ENODEV:
		return simple(DeviceMissing, untilChanged(), "the network device of the address's scope does not exist")
	case syscall.ENOBUFS, syscall.ENOMEM:
		return simple(OutOfMemory, End{}, "the kernel was short of memory")
	default:
		return Diagnosis{Code: Unknown}
	}
}

// ofAddress tells why an address cannot be bound to.
func ofAddress(f *Facts) Diagnosis {
	addr := f.Request.Addr
	switch f.Host.Address {
	case IPv6Disabled:
		return simple(FamilyDisabled, untilChanged(), "IPv6 is disabled in this network namespace, or on the device of the address")
	case AddressIsTentative:
		return simple(AddressTentative, End{}, fmt.Sprintf("%s is tentative: IPv6 duplicate address detection has not finished, or has found a duplicate", addr))
	}
	sysctl := "net.ipv4.ip_nonlocal_bind"
	if !addr.Is4() && !addr.Is4In6() {
		sysctl = "net.ipv6.ip_nonlocal_bind"
	}
	sentence := fmt.Sprintf("no network device of this network namespace has the address %s", addr)
	switch f.Host.Address {
	case AddressThere:
		sentence = fmt.Sprintf("no network device had the address %s as the call failed; one has it now", addr)
	case AddressUnknown:
		sentence = fmt.Sprintf("the address %s cannot be bound to: no device has it, or it is tentative", addr)
	}
	d := simple(AddressMissing, untilChanged(), sentence)
	d.Remedy = fmt.Sprintf("Configure the address first, for example with After=network-online.target in the unit. %s=1, or IP_FREEBIND, allows a bind before the address is there.", sysctl)
	return d
}

// ofPrivilege explains EACCES: which ports need a privilege is a setting, 1024 only its default.
func ofPrivilege(f *Facts) Diagnosis {
	start := f.Host.UnprivilegedPortStart
	switch {
	case start < 0 || !f.PortKnown:
		d := simple(Unknown, untilChanged(), "the port needs CAP_NET_BIND_SERVICE (net.ipv4.ip_unprivileged_port_start), or a security module refused the call")
		d.Remedy = DeniedByPolicy.entry().Remedy
		return d
	case int(f.Port) < start && f.Port != 0:
		d := simple(PortPrivileged, untilChanged(),
			fmt.Sprintf("port %d is below net.ipv4.ip_unprivileged_port_start (%d), and the process lacks CAP_NET_BIND_SERVICE", f.Port, start))
		d.Remedy = fmt.Sprintf("Give the process the capability (AmbientCapabilities=CAP_NET_BIND_SERVICE in its unit), pass it the socket, or set net.ipv4.ip_unprivileged_port_start to %d or less.", f.Port)
		return d
	default:
		return simple(DeniedByPolicy, untilChanged(),
			fmt.Sprintf("a security module refused the call: %s needs no privilege, since net.ipv4.ip_unprivileged_port_start is %d", words.Port(f.Port), start))
	}
}
