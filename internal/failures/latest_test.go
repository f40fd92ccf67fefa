package failures

import (
	"fmt"
	"testing"

	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/sock"
)

func as(f Failure, code codes.Code) Failure {
	f.Diagnosis = code
	return f
}

// A diagnosis comes a moment after its failure. Meanwhile the one before holds, if the same thing failed
// in the same way, so that no series comes and goes.
func TestDiagnosisOfTheLatestFailure(t *testing.T) {
	r := recorderOf(t, []sock.PortRange{one(80)})
	key := Key{Netns: ownNetns, Port: 80, Family: sock.FamilyIPv4, Protocol: sock.TCP}
	server := failed(80, "server", 1)
	flagged := server
	flagged.ReuseAddr = true
	other := failed(80, "other", 2)
	add := func() { r.add(&server) }
	for _, step := range []struct {
		do   func()
		want string
	}{
		{add, "server/"},
		{func() { r.conflicts.latest.settle(key, &server, codes.TimeWait) }, "server/time_wait"},
		{add, "server/time_wait"},
		{func() { r.add(&other) }, "other/"},
		{func() { r.conflicts.latest.settle(key, &server, codes.TimeWait) }, "other/"},
		{add, "server/"},
		{func() { r.conflicts.latest.settle(key, &flagged, codes.TimeWaitOldFlags) }, "server/"},
		{func() { r.conflicts.latest.settle(Key{Port: 81}, &server, codes.Closing) }, "server/"},
	} {
		step.do()
		got := ""
		for _, f := range r.conflicts.latest.all() {
			got += fmt.Sprintf("%s/%s", f.Process, f.Diagnosis)
		}
		if got != step.want {
			t.Errorf("got %q, want %q", got, step.want)
		}
	}
}
