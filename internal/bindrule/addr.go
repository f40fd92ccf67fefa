package bindrule

import (
	"net/netip"

	"sockstate_exporter/internal/sock"
)

// An addrKind is a class of bound addresses that the kernel tells apart (ipv6_addr_type).
type addrKind uint8

const (
	v4Any     addrKind = iota // 0.0.0.0
	v4                        // also v4-mapped
	mappedAny                 // ::ffff:0.0.0.0
	v6Any                     // ::
	v6
)

func kindOf(a netip.Addr) addrKind {
	switch {
	case a.Is4() && a.IsUnspecified():
		return v4Any
	case a.Is4():
		return v4
	case a.Is4In6() && a.Unmap().IsUnspecified():
		return mappedAny
	case a.Is4In6():
		return v4
	case a.IsUnspecified():
		return v6Any
	default:
		return v6
	}
}

func (s *Socket) kind() addrKind {
	switch s.Elsewhere {
	case sock.FamilyIPv4:
		return v4
	case sock.FamilyIPv6:
		return v6
	default:
		return kindOf(s.Addr)
	}
}

func (k addrKind) ipv4() bool { return k <= mappedAny }

// overlap says whether the kernel checks a socket with the address of s when r binds.
//
// For an address that is no wildcard the kernel checks the bucket of that address and the
// bucket of the wildcards (inet_bhash2_addr_any_conflict, inet_bind2_bucket_addr_match,
// inet_bind2_bucket_match_addr_any). For a wildcard it checks all sockets of the port
// (inet_csk_bind_conflict, inet_rcv_saddr_equal).
func overlap(r *Request, s *Socket, expected bool, mappedMeetsAny Flag) Flag {
	binder, other := kindOf(r.Addr), s.kind()
	switch binder {
	case v4:
		switch other {
		case v6Any:
			return not(s.V6Only)
		case v4Any, mappedAny:
			if r.Addr.Is4In6() {
				return mappedMeetsAny
			}
			return Yes
		default:
			return and(is(other == v4), sameAddr(r, s, expected))
		}
	case v6:
		return or(is(other == v6Any), and(is(other == v6), sameAddr(r, s, expected)))
	case v6Any:
		return or(is(!other.ipv4()), not(r.V6Only))
	case mappedAny:
		return or(is(other.ipv4()), and(is(other == v6Any), not(s.V6Only)))
	default: // v4Any
		// ipv4_rcv_saddr_equal does not look at the address of sk2 then: without
		// IPV6_V6ONLY, even ::1 conflicts with 0.0.0.0.
		return or(is(other.ipv4()), not(s.V6Only))
	}
}

func sameAddr(r *Request, s *Socket, expected bool) Flag {
	switch {
	case s.Elsewhere == 0:
	case expected:
		return No
	default:
		return FlagUnknown
	}
	return is(plainAddr(r.Addr) == plainAddr(s.Addr))
}
