package earlier

import "testing"

type key struct {
	port  int
	other bool
}

// One user who asks for all ports leaves room for others.
func TestFailuresOfOneUserAreBounded(t *testing.T) {
	f := New[string](func(key) key { return key{other: true} })
	for port := range 60_000 {
		f.Add("hostile", key{port: 1 + port}, 1)
	}
	f.Add("server", key{port: 65_000}, 1)
	f.Update(func(key) bool { return true }, func(key) bool { return false })
	counts := make(map[key]uint64)
	f.Apply(counts)
	delete(counts, key{other: true})
	if len(counts) != ofUser+1 || counts[key{port: 65_000}] != 1 {
		t.Errorf("%d failures moved, want that of the server and %d others", len(counts), ofUser)
	}
}
