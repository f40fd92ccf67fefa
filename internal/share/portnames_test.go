package share

import "testing"

func TestPortNamesAreKeptForWatchedPorts(t *testing.T) {
	var p PortNames
	p.Keep(func(uint16) bool { return false }) // of nothing
	first := p.Of(53)
	if p.Of(53) != first || p.Of(123) == first {
		t.Error("names are not those of their port")
	}
	p.Keep(func(port uint16) bool { return port == 53 })
	if len(p) != 1 || p.Of(53) != first {
		t.Errorf("%d ports are remembered, want 53", len(p))
	}
}
