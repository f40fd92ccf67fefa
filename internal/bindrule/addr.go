package bindrule

import "net/netip"

// An addrKind is how the kernel sorts a bound address (ipv6_addr_type).
type addrKind uint8

const (
	v4Any     addrKind = iota // 0.0.0.0
	v4                        // and v4-mapped
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

func (k addrKind) ipv4() bool { return k <= mappedAny }

// overlap says whether the kernel asks a socket with the address of s when r binds.
//
// For a particular address it looks into the bucket of that address and into that
// of the wildcards (inet_bhash2_addr_any_conflict, inet_bind2_bucket_addr_match,
// inet_bind2_bucket_match_addr_any); for a wildcard it asks all sockets of the
// port (inet_csk_bind_conflict, inet_rcv_saddr_equal).
func overlap(r *Request, s *Socket) Flag {
	binder, other := kindOf(r.Addr), kindOf(s.Addr)
	switch binder {
	case v4:
		switch other {
		case v6Any:
			return not(s.V6Only)
		case v4Any, mappedAny:
			if r.Addr.Is4In6() {
				return FlagUnknown // 6.1.192: 0.0.0.0 mostly, ::ffff:0.0.0.0 never; 6.12: yes
			}
			return Yes
		default:
			return is(sameAddr(r.Addr, s.Addr))
		}
	case v6:
		return is(other == v6Any || sameAddr(r.Addr, s.Addr))
	case v6Any:
		return or(is(!other.ipv4()), not(r.V6Only))
	case mappedAny:
		return or(is(other.ipv4()), and(is(other == v6Any), not(s.V6Only)))
	default: // v4Any
		// ipv4_rcv_saddr_equal looks at no address of sk2 then: not even ::1
		// goes with 0.0.0.0, except by IPV6_V6ONLY.
		return or(is(other.ipv4()), not(s.V6Only))
	}
}

func sameAddr(a, b netip.Addr) bool {
	return a.Unmap().WithZone("") == b.Unmap().WithZone("")
}
