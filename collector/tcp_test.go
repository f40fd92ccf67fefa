package collector

import (
	"strings"
	"testing"

	"sockstate_exporter/netlinkdiag"
)

func TestStatesThatWereNotLookedForAreAbsent(t *testing.T) {
	s := wholeSnapshot(t)
	s.TCP.Data = s.TCP.Data[1:] // has sockets in all states
	s.TCP.Data[0].Unseen = netlinkdiag.States(netlinkdiag.StateSynRecv, netlinkdiag.StateClose)
	c, _ := collectorOf(s)
	states := make(map[string]int)
	for line := range strings.Lines(string(exposition(t, c))) {
		if strings.HasPrefix(line, "sockstate_tcp_sockets{") {
			_, state, _ := strings.Cut(line, `state="`)
			state, _, _ = strings.Cut(state, `"`)
			states[state]++
		}
	}
	for state := netlinkdiag.StateEstablished; state < netlinkdiag.NumStates; state++ {
		want := 2 // of both families
		if state == netlinkdiag.StateSynRecv || state == netlinkdiag.StateClose {
			want = 0
		}
		if states[state.String()] != want {
			t.Errorf("%d series of %v, want %d", states[state.String()], state, want)
		}
	}
}
