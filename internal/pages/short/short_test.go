package short

import "testing"

func TestRepeatsAreShownOnce(t *testing.T) {
	one, two := uint64(1), uint64(2)
	l := New()
	l.Add("0.0.0.0", "nginx (pid 7)")
	l.Add("::", "nginx (pid 7)")
	l.Count(&one)
	l.Count(&two)
	if got, want := l.Where()+" "+l.Who(), "0.0.0.0, :: nginx (pid 7)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if *l.Drops != 3 || one != 1 {
		t.Errorf("drops %d, and the first socket has %d", *l.Drops, one)
	}
	l.Add("127.0.0.1", "")
	l.Count(nil)
	if l.Drops != nil || l.Who() != "nginx (pid 7)" {
		t.Errorf("drops %v, by %q", l.Drops, l.Who())
	}
}
