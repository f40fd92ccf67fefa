package codes

import (
	"slices"
	"strings"
)

// A Code names a diagnosis. Codes are stable: they are values of the label `diagnosis`, and of JSON
// fields.
type Code string

// The codes. Where sockets of several kinds block a bind, the first of their codes in this order is
// the diagnosis: what stays longest comes first.
const (
	OwnListener        Code = "own_listener"
	InheritedListener  Code = "inherited_listener"
	ReusePortOtherUser Code = "reuseport_other_user"
	ReusePortMissing   Code = "reuseport_missing"
	OtherListener      Code = "other_listener"
	SecondListen       Code = "second_listen"
	SelfConnection     Code = "self_connection"
	OutgoingConnection Code = "outgoing_connection"
	AcceptedConnection Code = "accepted_connection"
	BoundOnly          Code = "bound_only"
	Closing            Code = "closing"
	TimeWait           Code = "time_wait"
	TimeWaitOldFlags   Code = "time_wait_old_flags"

	UnixInUse            Code = "unix_in_use"
	UnixStaleFile        Code = "unix_stale_file"
	UnixNoSocket         Code = "unix_no_socket"
	UnixDirectoryMissing Code = "unix_directory_missing"
	UnixDenied           Code = "unix_denied"
	UnixShadowed         Code = "unix_shadowed"
	UnixUnlinked         Code = "unix_unlinked"

	PortsExhausted          Code = "ports_exhausted"
	PortsExhaustedForSocket Code = "ports_exhausted_for_socket"
	PortsExhaustedForDest   Code = "ports_exhausted_for_destination"

	UDPOwnSocket      Code = "udp_own_socket"
	UDPReuseOtherUser Code = "udp_reuse_other_user"
	UDPReuseMissing   Code = "udp_reuse_missing"
	UDPKernelSocket   Code = "udp_kernel_socket"
	UDPInUse          Code = "udp_in_use"

	AddressMissing   Code = "address_missing"
	AddressTentative Code = "address_tentative"
	FamilyDisabled   Code = "family_disabled"
	PortPrivileged   Code = "port_privileged"
	DeniedByPolicy   Code = "denied_by_policy"
	InvalidCall      Code = "invalid_call"
	DeviceMissing    Code = "device_missing"
	OutOfMemory      Code = "out_of_memory"

	// These are states of a port that nothing has failed for.
	SplitPort   Code = "split_port"
	NoReuseAddr Code = "no_reuseaddr"
	UDPShared   Code = "udp_shared"

	Unknown Code = "unknown"
)

// Codes returns all codes, in their order.
func Codes() []Code {
	return []Code{
		OwnListener, InheritedListener, ReusePortOtherUser, ReusePortMissing, OtherListener, SecondListen,
		SelfConnection, OutgoingConnection, AcceptedConnection, BoundOnly, Closing, TimeWait, TimeWaitOldFlags,
		UnixInUse, UnixStaleFile, UnixNoSocket, UnixDirectoryMissing, UnixDenied, UnixShadowed, UnixUnlinked,
		PortsExhausted, PortsExhaustedForSocket, PortsExhaustedForDest,
		UDPOwnSocket, UDPReuseOtherUser, UDPReuseMissing, UDPKernelSocket, UDPInUse,
		AddressMissing, AddressTentative, FamilyDisabled, PortPrivileged, DeniedByPolicy, InvalidCall, DeviceMissing, OutOfMemory,
		SplitPort, NoReuseAddr, UDPShared,
		Unknown,
	}
}

// Before says whether the code is to be told rather than another one.
func (c Code) Before(other Code) bool { return c.rank() < other.rank() }

func (c Code) rank() int {
	codes := Codes()
	if i := slices.Index(codes, c); i >= 0 {
		return i
	}
	return len(codes)
}

// reference comes before the code at the end of a line.
const reference = " (docs/diagnoses.md#"

// Reference names the section of the documentation that explains the code, at the end of a line.
func (c Code) Reference() string { return reference + string(c) + ")" }

// CutReference cuts the reference off that a line ends with. The code is empty where there is none.
func CutReference(line string) (text string, code Code) {
	at := strings.LastIndex(line, reference) // a process may be called like that
	if at < 0 {
		return line, ""
	}
	return line[:at], Code(strings.TrimSuffix(line[at+len(reference):], ")"))
}
