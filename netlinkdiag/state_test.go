package netlinkdiag_test

import (
	"testing"

	"sockstate_exporter/netlinkdiag"
)

func TestStateString(t *testing.T) {
	for state, want := range map[netlinkdiag.State]string{
		0: "state(0)", 1: "established", 2: "syn_sent", 3: "syn_recv", 4: "fin_wait1", 5: "fin_wait2",
		6: "time_wait", 7: "close", 8: "close_wait", 9: "last_ack", 10: "listen", 11: "closing",
		12: "state(12)", 13: "bound_inactive", 14: "state(14)", 255: "state(255)",
	} {
		if got := state.String(); got != want {
			t.Errorf("state %d is %q, want %q", uint8(state), got, want)
		}
	}
}

func TestStateSet(t *testing.T) {
	set := netlinkdiag.States(netlinkdiag.StateListen, netlinkdiag.StateTimeWait, netlinkdiag.StateListen)
	if want := netlinkdiag.StateSet(1<<10 | 1<<6); set != want {
		t.Errorf("the set is %b, want %b", set, want)
	}
	if got, want := set.String(), "time_wait|listen"; got != want {
		t.Errorf("the set is %q, want %q", got, want)
	}
	if got, want := set.Without(netlinkdiag.StateListen, netlinkdiag.StateClose), netlinkdiag.States(netlinkdiag.StateTimeWait); got != want {
		t.Errorf("without listen it is %v, want %v", got, want)
	}
	if got := netlinkdiag.StateSet(0).String(); got != "" {
		t.Errorf("the zero set is %q", got)
	}
	// TCPF_ALL without TCPF_NEW_SYN_RECV, with TCPF_BOUND_INACTIVE.
	if want := netlinkdiag.StateSet(0x2ffe); netlinkdiag.AllStates != want {
		t.Errorf("all states are %#x, want %#x", uint32(netlinkdiag.AllStates), uint32(want))
	}
	for state := range netlinkdiag.State(32) {
		if got, want := set.Has(state), state == 6 || state == 10; got != want {
			t.Errorf("Has(%v) = %v, want %v", state, got, want)
		}
	}
	if set.Has(255) {
		t.Error("Has(255)")
	}
}

func TestFamilyAndProtocolString(t *testing.T) {
	for family, want := range map[netlinkdiag.Family]string{0: "any", 2: "ipv4", 10: "ipv6", 3: "family(3)"} {
		if got := family.String(); got != want {
			t.Errorf("family %d is %q, want %q", uint8(family), got, want)
		}
	}
	for protocol, want := range map[netlinkdiag.Protocol]string{6: "tcp", 17: "udp", 132: "protocol(132)"} {
		if got := protocol.String(); got != want {
			t.Errorf("protocol %d is %q, want %q", uint8(protocol), got, want)
		}
	}
}
