package pages

import "testing"

// BenchmarkPortsOfManyNamespaces is the page of 500 namespaces with 512 ports each.
func BenchmarkPortsOfManyNamespaces(b *testing.B) {
	h := newPages(b, manyPorts()).Ports()
	for b.Loop() {
		ask(h, "/ports", "")
	}
}
