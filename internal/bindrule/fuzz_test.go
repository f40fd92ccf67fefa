package bindrule

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"sockstate_exporter/internal/sock"
)

// FuzzBind checks what is true for every input:
//
//   - One more socket never makes a bind succeed that failed without it.
//   - An outcome other than Unknown, and a known Until, stay the same when what was unknown
//     becomes known.
func FuzzBind(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(seed, uint8(seed), seed%4 == 0)
	}
	f.Fuzz(func(t *testing.T, seed uint64, sockets uint8, incomplete bool) {
		rng := rand.New(rand.NewPCG(seed, 0))
		p := Port{Bucket: randomBucket(rng), Incomplete: incomplete}
		for range sockets % 6 {
			p.Sockets = append(p.Sockets, randomSocket(rng))
		}
		r := Request{
			Addr: randomAddr(rng), Ifindex: rng.Uint32N(3), V6Only: randomFlag(rng), ReuseAddr: randomFlag(rng),
			ReusePort: randomFlag(rng), UID: randomUID(rng), ListenersAside: rng.IntN(4) == 0,
		}
		v := p.Bind(r)

		more := p
		more.Sockets = append(slices.Clone(p.Sockets), randomSocket(rng))
		if m := more.Bind(r); hardness(m.Outcome) < hardness(v.Outcome) {
			t.Fatalf("%v with one more socket, %v without:\n%+v\n%+v", m.Outcome, v.Outcome, more, r)
		}

		known := p
		known.Sockets = slices.Clone(p.Sockets)
		for i := range known.Sockets {
			s := &known.Sockets[i]
			s.V6Only, s.ReuseAddr, s.ReusePort = settle(rng, s.V6Only), settle(rng, s.ReuseAddr), settle(rng, s.ReusePort)
			s.UID = settleUID(rng, s.UID)
		}
		if !known.Bucket.Known {
			known.Bucket = randomBucket(rng)
			known.Bucket.MappedMeetsAny = p.Bucket.MappedMeetsAny
			known.Bucket.Known, known.Bucket.FastReuse = true, false // see Bucket.admits
		}
		if known.Incomplete {
			known.Incomplete = false
			known.Sockets = append(known.Sockets, settled(rng, randomSocket(rng)))
		}
		k := r
		k.V6Only, k.ReuseAddr, k.ReusePort = settle(rng, r.V6Only), settle(rng, r.ReuseAddr), settle(rng, r.ReusePort)
		k.UID = settleUID(rng, r.UID)
		w := known.Bind(k)
		switch {
		case w.Outcome == Unknown && !kernelsDiffer(known.Sockets):
			t.Fatalf("unknown where all is known:\n%+v\n%+v", known, k)
		case v.Outcome != Unknown && w.Outcome != v.Outcome:
			t.Fatalf("%v, and %v once all is known:\n%+v\n%+v\n%+v\n%+v", v.Outcome, w.Outcome, p, r, known, k)
		case v.UntilKnown && w.UntilKnown && (w.Until != v.Until || w.Forever != v.Forever):
			t.Fatalf("until %+v, and %+v once all is known:\n%+v\n%+v\n%+v\n%+v", v, w, p, r, known, k)
		}
	})
}

// kernelsDiffer says whether kernels answer differently: see overlap.
func kernelsDiffer(sockets []Socket) bool {
	return slices.ContainsFunc(sockets, func(s Socket) bool {
		kind := kindOf(s.Addr)
		return kind == mappedAny || kind == v4Any
	})
}

func hardness(o Outcome) int { return map[Outcome]int{Free: 0, Unknown: 1, Blocked: 2}[o] }

func randomSocket(rng *rand.Rand) Socket {
	s := Socket{
		Addr: randomAddr(rng), Ifindex: rng.Uint32N(3), V6Only: randomFlag(rng), ReuseAddr: randomFlag(rng),
		ReusePort: randomFlag(rng), UID: randomUID(rng), State: sock.State(rng.IntN(13)), Kind: sock.Kind(rng.IntN(4)), Count: 1,
	}
	if s.Kind == sock.KindTimeWait {
		s.Expires = time.Duration(rng.IntN(60)) * time.Second
	}
	return s
}

func settled(rng *rand.Rand, s Socket) Socket {
	s.V6Only, s.ReuseAddr, s.ReusePort = settle(rng, s.V6Only), settle(rng, s.ReuseAddr), settle(rng, s.ReusePort)
	s.UID = settleUID(rng, s.UID)
	return s
}

func randomBucket(rng *rand.Rand) Bucket {
	return Bucket{
		Known: rng.IntN(2) == 0, FastReuse: rng.IntN(4) == 0, FastReusePort: FastReusePort(rng.IntN(4)),
		UID: rng.Uint32N(2), Addr: randomAddr(rng), V6Only: rng.IntN(2) == 0,
		MappedMeetsAny: rng.IntN(2) == 0,
	}
}

func randomAddr(rng *rand.Rand) netip.Addr {
	addrs := []string{"0.0.0.0", "127.0.0.1", "127.0.0.6", "::", "::1", "fe80::1%2", "::ffff:0.0.0.0", "::ffff:127.0.0.1", ""}
	a, _ := netip.ParseAddr(addrs[rng.IntN(len(addrs))])
	return a
}

func randomFlag(rng *rand.Rand) Flag { return Flag(rng.IntN(3)) }

func randomUID(rng *rand.Rand) UID { return UID{ID: rng.Uint32N(2), Known: rng.IntN(3) > 0} }

func settle(rng *rand.Rand, f Flag) Flag {
	if f == FlagUnknown {
		return is(rng.IntN(2) == 0)
	}
	return f
}

func settleUID(rng *rand.Rand, u UID) UID {
	if !u.Known {
		return UIDOf(rng.Uint32N(2))
	}
	return u
}
