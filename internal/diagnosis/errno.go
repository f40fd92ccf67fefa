package diagnosis

import (
	"cmp"
	"fmt"
	"syscall"

	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/sock"
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
		return Simple(codes.DeniedByPolicy, UntilChanged(), "a security module, or a BPF program of the process's cgroup, refused the call")
	case syscall.EINVAL:
		return Simple(codes.InvalidCall, UntilChanged(), "the socket is bound already, or the address makes no sense for it")
	case syscall.EAFNOSUPPORT:
		return Simple(codes.InvalidCall, UntilChanged(), "the address is of another family than the socket")
	case syscall.ENODEV:
		return Simple(codes.DeviceMissing, UntilChanged(), "the network device of the address's scope does not exist")
	case syscall.ENOBUFS, syscall.ENOMEM:
		return Simple(codes.OutOfMemory, End{}, "the kernel was short of memory")
	default:
		return Diagnosis{Code: codes.Unknown}
	}
}

// ofAddress tells why an address cannot be bound to. What it says of the address was seen after the call.
func ofAddress(f *Facts) Diagnosis {
	addr, is := f.Request.Addr, f.Host.Address
	device := words.Name(is.Device)
	var d Diagnosis
	switch is.State {
	case sock.IPv6Disabled:
		setting := "net.ipv6.conf." + cmp.Or(is.Device, "all") + ".disable_ipv6"
		d = Simple(codes.FamilyDisabled, UntilChanged(), fmt.Sprintf("IPv6 is disabled: %s is 1, so that %s cannot be an address here", words.OneLine(setting), addr))
		d.Remedy = fmt.Sprintf("Set %s to 0, or remove the IPv6 address from the server's configuration.", words.OneLine(setting))
	case sock.AddressTentative:
		d = Simple(codes.AddressTentative, End{}, fmt.Sprintf("%s on %s is tentative: IPv6 duplicate address detection has not finished", addr, device))
	case sock.AddressDuplicate:
		d = Simple(codes.AddressTentative, UntilChanged(), fmt.Sprintf("another host has %s too: IPv6 duplicate address detection on %s has failed (dadfailed)", addr, device))
		d.Remedy = "Give one of the two hosts another address."
	case sock.AddressDown:
		d = Simple(codes.AddressMissing, UntilChanged(), fmt.Sprintf("%s is an address of %s, which is down", addr, device))
		d.Remedy = fmt.Sprintf("Set the device up before the server starts: ip link set %s up.", device)
	default:
		d = ofAbsent(f)
	}
	d.Afterwards = is.State != sock.AddressUnknown
	return d
}

// ofAbsent: no device has the address, as far as is known.
func ofAbsent(f *Facts) Diagnosis {
	addr, is := f.Request.Addr, f.Host.Address
	v6 := !addr.Is4() && !addr.Is4In6()
	sysctl := "net.ipv4.ip_nonlocal_bind"
	if v6 {
		sysctl = "net.ipv6.ip_nonlocal_bind"
	}
	sentence := fmt.Sprintf("the address %s cannot be bound to: no device has it", addr)
	switch {
	case is.State == sock.AddressAbsent && is.Nonlocal:
		sentence = fmt.Sprintf("no network device of this network namespace has the address %s, but %s is 1 now, so that a bind works", addr, sysctl)
	case is.State == sock.AddressAbsent:
		sentence = fmt.Sprintf("no network device of this network namespace has the address %s", addr)
	case is.State == sock.AddressUsable && v6:
		sentence = fmt.Sprintf("the address %s was not there yet, or it was tentative; a bind works now", addr)
	case is.State == sock.AddressUsable:
		sentence = fmt.Sprintf("the address %s was not there yet; a bind works now", addr)
	case v6:
		sentence += ", or it is tentative"
	}
	if is.State == sock.AddressAbsent && is.Disabled > 0 {
		sentence += "; IPv6 is disabled on " + words.Name(is.Device)
		if is.Disabled > 1 {
			sentence += fmt.Sprintf(" and %d more", is.Disabled-1)
		}
	}
	d := Simple(codes.AddressMissing, UntilChanged(), sentence)
	d.Remedy = "Configure the address before the server starts, for example with After=network-online.target in the unit."
	if is.State == sock.AddressAbsent && is.Disabled > 0 {
		setting := words.OneLine("net.ipv6.conf." + is.Device + ".disable_ipv6")
		d.Remedy += fmt.Sprintf(" If the address belongs on %s, set %s to 0 first.", words.Name(is.Device), setting)
	}
	if !is.Nonlocal {
		d.Remedy += fmt.Sprintf(" %s=1, or IP_FREEBIND, allows a bind before the address is there.", sysctl)
	}
	return d
}

// ofPrivilege explains EACCES: which ports need a privilege is a setting, 1024 only its default.
func ofPrivilege(f *Facts) Diagnosis {
	start := f.Host.UnprivilegedPortStart
	switch {
	case start < 0 || !f.PortKnown:
		d := Simple(codes.Unknown, UntilChanged(), "the port needs CAP_NET_BIND_SERVICE (net.ipv4.ip_unprivileged_port_start), or a security module refused the call")
		d.Remedy = codes.DeniedByPolicy.Remedy()
		return d
	case int(f.Port) < start && f.Port != 0 && f.Host.PrivilegeLacked:
		d := Simple(codes.PortPrivileged, UntilChanged(),
			fmt.Sprintf("port %d is below net.ipv4.ip_unprivileged_port_start (%d), and the process lacks CAP_NET_BIND_SERVICE", f.Port, start))
		d.Remedy = fmt.Sprintf("Give the process the capability (AmbientCapabilities=CAP_NET_BIND_SERVICE in its unit), pass it the socket, or set net.ipv4.ip_unprivileged_port_start to %d or less.", f.Port)
		return d
	case int(f.Port) < start && f.Port != 0:
		return Simple(codes.DeniedByPolicy, UntilChanged(),
			fmt.Sprintf("a security module refused the call: the process has CAP_NET_BIND_SERVICE, so that it may bind to %s", words.Port(f.Port)))
	default:
		return Simple(codes.DeniedByPolicy, UntilChanged(),
			fmt.Sprintf("a security module refused the call: %s needs no privilege, since net.ipv4.ip_unprivileged_port_start is %d", words.Port(f.Port), start))
	}
}

// OfCheckedPrivilege says that a server with the privileges of who asks may not bind to a port that is free.
func OfCheckedPrivilege(port uint16, start int) string {
	return fmt.Sprintf("a server with the privileges of this command fails with EACCES: %s is below net.ipv4.ip_unprivileged_port_start (%d), and CAP_NET_BIND_SERVICE is missing",
		words.Port(port), start)
}
