package bindrule

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"sockstate_exporter/internal/sock"
)

// folded returns the port with all of its sockets folded.
func folded(p Port, f *Folding) Port {
	out := p
	out.Sockets, out.Folding = nil, f
	for _, s := range p.Sockets {
		out.Sockets = append(out.Sockets, f.FoldSocket(s))
	}
	return out
}

func randomRequest(rng *rand.Rand) Request {
	return Request{
		Addr: randomAddr(rng), Ifindex: rng.Uint32N(3), V6Only: randomFlag(rng), ReuseAddr: randomFlag(rng),
		ReusePort: randomFlag(rng), UID: randomUID(rng), ListenersAside: rng.IntN(4) == 0,
	}
}

func randomPort(rng *rand.Rand, sockets int) Port {
	p := Port{Bucket: randomBucket(rng)}
	for range sockets {
		p.Sockets = append(p.Sockets, randomSocket(rng))
	}
	return p
}

// The flags of an expected request need not be those that it is asked with.
func TestFoldedSocketsAnswerExpectedRequestsExactly(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	outcomes := make(map[Outcome]int)
	for range 10_000 {
		expected := make([]Request, 1+rng.IntN(4))
		for i := range expected {
			expected[i] = randomRequest(rng)
		}
		p := randomPort(rng, rng.IntN(8))
		r := expected[rng.IntN(len(expected))]
		r.V6Only, r.ReuseAddr, r.ReusePort, r.ListenersAside = randomFlag(rng), randomFlag(rng), randomFlag(rng), rng.IntN(2) == 0
		want, few := p.Bind(r), folded(p, NewFolding(expected))
		got := few.Bind(r)
		outcomes[want.Outcome]++
		if !sameVerdict(&got, &want) {
			t.Fatalf("folded %+v, unfolded %+v:\n%+v\n%+v\n%+v\nexpected %+v", got, want, few, p, r, expected)
		}
	}
	for _, o := range []Outcome{Unknown, Free, Blocked} {
		if outcomes[o] < 100 {
			t.Errorf("%d requests of 10,000 are %v: too few to show anything", outcomes[o], o)
		}
	}
}

// Nothing is claimed of a request that was not expected.
func TestFoldedSocketsDoNotAnswerOtherRequestsWrongly(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	unknown, known := 0, 0
	for range 10_000 {
		p, r := randomPort(rng, rng.IntN(8)), randomRequest(rng)
		var f *Folding
		if rng.IntN(2) == 0 {
			f = NewFolding([]Request{randomRequest(rng)})
		}
		want, few := p.Bind(r), folded(p, f)
		switch got := few.Bind(r); {
		case sameVerdict(&got, &want):
			known++
		case got.Outcome == Unknown:
			unknown++
		case got.Outcome != want.Outcome || got.UntilKnown && (got.Until != want.Until || got.Forever != want.Forever):
			t.Fatalf("folded %+v, unfolded %+v:\n%+v\n%+v\n%+v", got, want, few, p, r)
		}
	}
	if unknown < 100 || known < 100 {
		t.Errorf("%d requests became unknown, %d did not: too few to show anything", unknown, known)
	}
}

func sameVerdict(a, b *Verdict) bool {
	return a.Outcome == b.Outcome && a.Until == b.Until && a.Forever == b.Forever && a.UntilKnown == b.UntilKnown &&
		slices.Equal(a.Blockers, b.Blockers) && slices.Equal(a.Doubtful, b.Doubtful)
}

func TestFoldKeepsWhatRequestsTellApart(t *testing.T) {
	f := NewFolding([]Request{
		{Addr: addr("192.0.2.1"), Ifindex: 3, UID: UIDOf(1000)},
		{Addr: addr("::"), UID: UIDOf(7)},
	})
	other := func(family sock.Family, ifindex, uid uint32) Binding {
		return Binding{Elsewhere: family, Ifindex: ifindex, UID: uid}
	}
	at := func(a string, ifindex, uid uint32) Binding {
		return Binding{Addr: netip.MustParseAddr(a), Ifindex: ifindex, UID: uid}
	}
	for _, tt := range []struct {
		name     string
		in, want Binding
	}{
		{"an expected address", at("192.0.2.1", 3, 1000), at("192.0.2.1", 3, 1000)},
		{"the same, mapped", at("::ffff:192.0.2.1", 3, 1000), at("::ffff:192.0.2.1", 3, 1000)},
		{"its user on a device that it does not use", at("192.0.2.1", 4, 1000), at("192.0.2.1", sock.OtherIfindex, sock.OtherUID)},
		{"the user of a wildcard", at("192.0.2.1", 4, 7), at("192.0.2.1", sock.OtherIfindex, 7)},
		{"another address", at("192.0.2.2", 0, 7), other(sock.FamilyIPv4, 0, 7)},
		{"of another user", at("192.0.2.2", 3, 1000), other(sock.FamilyIPv4, sock.OtherIfindex, sock.OtherUID)},
		{"mapped", at("::ffff:192.0.2.2", 0, 7), other(sock.FamilyIPv4, 0, 7)},
		{"IPv6", at("2001:db8::1", 9, 8), other(sock.FamilyIPv6, sock.OtherIfindex, sock.OtherUID)},
		{"a wildcard that is not expected", at("0.0.0.0", 0, 8), at("0.0.0.0", 0, sock.OtherUID)},
		{"a wildcard on an expected device", at("0.0.0.0", 3, 1000), at("0.0.0.0", 3, 1000)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := f.Fold(tt.in); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}
