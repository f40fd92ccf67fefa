package collector

import (
	"maps"
	"strings"
	"testing"

	"sockstate_exporter/internal/failures"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/verdict"
)

const conflictsTotal = "sockstate_bind_conflicts_total"

func TestConflictsBySeries(t *testing.T) {
	tcp := failures.Key{Netns: ownNetns, Port: 80, Family: sock.FamilyIPv4, Protocol: sock.TCP}
	v6, mptcp, foreign, gone, zero, other := tcp, tcp, tcp, tcp, tcp, tcp
	v6.Family = sock.FamilyIPv6
	mptcp.Protocol = sock.MPTCP
	foreign.Netns = 0
	gone.Port = 8080
	zero.Port = 0
	other.Port, other.OtherPort = 0, true
	count := func(key failures.Key, reuseAddr bool, cause verdict.Cause, n uint64) failures.ConflictCount {
		return failures.ConflictCount{ConflictKey: failures.ConflictKey{Key: key, ReuseAddr: reuseAddr, Cause: cause}, N: n}
	}
	text := bindText(t, failures.Binds{Conflicts: []failures.ConflictCount{
		count(tcp, false, verdict.CauseTimeWait, 1), count(tcp, true, verdict.CauseTimeWait, 2),
		count(tcp, true, verdict.CauseListener, 3), count(v6, false, verdict.CauseBound, 4),
		count(mptcp, false, verdict.CauseConnection, 5), count(foreign, false, verdict.CauseUnknown, 6),
		count(gone, false, verdict.CauseTimeWait, 7), count(zero, false, verdict.CauseUnknown, 8),
		count(other, true, verdict.CauseTimeWait, 9),
	}})
	want := make(map[string]string)
	for labels, n := range map[string]string{
		`time_wait ipv4  80 tcp false`:    "1",
		`time_wait ipv4  80 tcp true`:     "2",
		`listener ipv4  80 tcp true`:      "3",
		`bound ipv6  80 tcp false`:        "4",
		`connection ipv4  80 mptcp false`: "5",
		`unknown ipv4 other 80 tcp false`: "6",
		`time_wait ipv4  8080 tcp false`:  "7",
		`unknown ipv4  0 tcp false`:       "8",
		`time_wait ipv4  other tcp true`:  "9",
	} {
		v := strings.Split(labels, " ")
		netns := ""
		if v[2] != "" {
			netns = `netns="` + v[2] + `",`
		}
		want[`cause="`+v[0]+`",family="`+v[1]+`",`+netns+`port="`+v[3]+`",protocol="`+v[4]+`",reuseaddr="`+v[5]+`"`] = n
	}
	if got := values(text, conflictsTotal); !maps.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}
