package share

import (
	"cmp"
	"slices"
	"testing"
)

func TestSubordinateUidsShareAnAccount(t *testing.T) {
	for _, tt := range []struct{ uid, want uint32 }{
		{0, 0}, {99_999, 99_999}, {100_000, 100_000}, {165_535, 100_000}, {165_536, 165_536}, {1<<32 - 1, 4_294_936_224},
	} {
		if got := Account(tt.uid); got != tt.want {
			t.Errorf("uid %d shares with %d, want %d", tt.uid, got, tt.want)
		}
	}
}

func TestFairlySharesByLevel(t *testing.T) {
	rows := []string{"a1x", "a1y", "a1z", "a2x", "a2y", "b1x", "c9z"}
	level := func(n int) func(*string) uint64 { return func(s *string) uint64 { return uint64((*s)[n]) } }
	Fairly(rows, func(a, b *string) int { return cmp.Compare(*a, *b) }, level(0), level(1))
	if want := []string{"a1x", "b1x", "c9z", "a2x", "a1y", "a2y", "a1z"}; !slices.Equal(rows, want) {
		t.Errorf("got %v, want %v", rows, want)
	}
}
