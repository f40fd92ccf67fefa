package snapshot

import (
	"errors"
	"os"
	"testing"

	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/stack"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/netlinkdiag"
)

// A guest runs this before it loads the kernel's sock_diag modules (make test-kernels); every other machine has
// them.
func TestWithoutModulesTheRestIsServed(t *testing.T) {
	missing := os.Getenv("SOCKSTATE_GUEST_NO_MODULES") == "1"

	reader, err := stack.NewReader("/proc")
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Host:  &probe.Host{Config: probe.Config{Stack: reader.Read}},
		Parts: Parts{TCP: true, Listeners: true, Verdicts: true, UDP: true},
	}
	watched := discovering()
	watched.Ports = []watch.Spec{{PortRange: one(4840)}, {PortRange: one(53), Protocol: sock.UDP}}
	taker := newTaker(t, cfg, watched)
	s := taker.Take(t.Context())

	for name, err := range map[string]error{"Watch": s.Watch.Err, "Listeners": s.Listeners.Err, "TCP": s.TCP.Err, "Verdicts": s.Verdicts.Err, "UDP": s.UDP.Err} {
		var lacking *netlinkdiag.ModuleError
		module := "tcp_diag"
		if name == "UDP" {
			module = "udp_diag"
		}
		switch {
		case !missing && err != nil:
			t.Errorf("%s: %v", name, err)
		case missing && (!errors.As(err, &lacking) || lacking.Module != module):
			t.Errorf("%s: error %v, want one that names %s", name, err, module)
		}
	}
	if s.Stack.Err != nil || !s.Stack.Data.TimeWaitLimit.OK {
		t.Errorf("stack: %+v, %v", s.Stack.Data, s.Stack.Err)
	}
	if _, ok := s.Watch.Data.Find(4840); !ok {
		t.Errorf("watches %v, want 4840 among them", numbers(&s))
	}
	if _, ok := s.UDP.Data.Watch.Find(53); !ok {
		t.Errorf("watches %v of UDP, want 53 among them", s.UDP.Data.Watch.Ports)
	}
	if !taker.Ready() {
		t.Error("not ready")
	}
}
