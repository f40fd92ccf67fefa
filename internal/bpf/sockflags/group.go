package sockflags

import (
	"encoding/binary"
	"net/netip"
	"time"

	"sockstate_exporter/internal/sock"
)

func newFlags(bits uint8) Flags {
	return Flags{ReuseAddr: bits&flagReuse != 0, ReusePort: bits&flagReusePort != 0}
}

// newGroup converts a group of the eBPF program. now is in jiffies, as is the expiry of the group.
func newGroup(k *sockflagsGroupKey, v *sockflagsGroup, now uint64, tick time.Duration) Group {
	g := Group{
		Port:    k.Port,
		Addr:    newAddr(k.Addr, k.V6),
		Ifindex: k.Ifindex,
		V6Only:  k.Flags&flagV6Only != 0,
		State:   sock.State(k.State),
		Kind:    sock.Kind(k.Kind),
		Flags:   newFlags(k.Flags),
		UID:     k.Uid,
		Count:   v.Count,
	}
	if k.Flags&flagElsewhere != 0 {
		g.Addr, g.Elsewhere = netip.Addr{}, sock.FamilyIPv4
		if k.V6 != 0 {
			g.Elsewhere = sock.FamilyIPv6
		}
	}
	// A socket whose timer is due stays in the table until the timer runs.
	if left := int64(v.Expires - now); g.Kind == sock.KindTimeWait && left > 0 {
		g.Expires = time.Duration(left) * tick
	}
	return g
}

func newBucket(b *sockflagsBucket) Bucket {
	bucket := Bucket{FastReuse: b.Fastreuse, FastReusePort: b.Fastreuseport}
	if bucket.FastReusePort > 0 {
		bucket.UID, bucket.Addr, bucket.V6Only = b.Uid, newAddr(b.Addr, b.V6), b.V6only != 0
	}
	return bucket
}

func newAddr(words [4]uint32, v6 uint8) netip.Addr {
	var b [16]byte
	for i, word := range words {
		binary.NativeEndian.PutUint32(b[4*i:], word)
	}
	if v6 == 0 {
		return netip.AddrFrom4([4]byte(b[:4]))
	}
	return netip.AddrFrom16(b)
}
