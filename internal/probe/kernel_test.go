package probe

import (
	"testing"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/timewait"
	"sockstate_exporter/netlinkdiag"
)

func TestMain(m *testing.M) { kerneltest.Main(m) }

// A counter is a Visitor that only counts.
type counter int

func (c *counter) Reset()                  { *c = 0 }
func (c *counter) Add(*netlinkdiag.Socket) { *c++ }

// A scrape of a million sockets must not make a million objects for the garbage collector.
func TestDumpAllocatesNothingPerSocket(t *testing.T) {
	const sockets = 3000
	ns := kerneltest.New(t)
	timewait.MustMake(t, ns, timewait.Options{Ports: []uint16{4840}, Count: sockets})
	config := Config{NetNS: ns.FD()}
	own := config.Own()
	defer own.Close()
	req := netlinkdiag.Request{States: netlinkdiag.AllStates}
	allocs := testing.AllocsPerRun(5, func() {
		var c counter
		if err := own.Sockets(t.Context(), req, &c); err != nil || c < sockets {
			t.Errorf("%d sockets, %v; want %d", c, err, sockets)
		}
	})
	if allocs > sockets/10 {
		t.Errorf("a dump of %d sockets makes %.0f allocations", sockets, allocs)
	}
}
