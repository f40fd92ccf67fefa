package collector

import (
	"maps"
	"strings"
	"testing"

	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/failures"
	"sockstate_exporter/internal/sock"
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
	count := func(key failures.Key, code codes.Code, n uint64) failures.ConflictCount {
		return failures.ConflictCount{ConflictKey: failures.ConflictKey{Key: key, Diagnosis: code}, N: n}
	}
	text := bindText(t, failures.Binds{Conflicts: []failures.ConflictCount{
		count(tcp, codes.TimeWait, 1), count(tcp, codes.TimeWaitOldFlags, 2),
		count(tcp, codes.OtherListener, 3), count(v6, codes.BoundOnly, 4),
		count(mptcp, codes.AcceptedConnection, 5), count(foreign, codes.Unknown, 6),
		count(gone, codes.TimeWait, 7), count(zero, codes.PortsExhausted, 8),
		count(other, codes.TimeWait, 9),
	}})
	want := make(map[string]string)
	for labels, n := range map[string]string{
		`time_wait ipv4  80 tcp`:             "1",
		`time_wait_old_flags ipv4  80 tcp`:   "2",
		`other_listener ipv4  80 tcp`:        "3",
		`bound_only ipv6  80 tcp`:            "4",
		`accepted_connection ipv4  80 mptcp`: "5",
		`unknown ipv4 other 80 tcp`:          "6",
		`time_wait ipv4  8080 tcp`:           "7",
		`ports_exhausted ipv4  0 tcp`:        "8",
		`time_wait ipv4  other tcp`:          "9",
	} {
		v := strings.Split(labels, " ")
		netns := ""
		if v[2] != "" {
			netns = `netns="` + v[2] + `",`
		}
		want[`diagnosis="`+v[0]+`",family="`+v[1]+`",`+netns+`port="`+v[3]+`",protocol="`+v[4]+`"`] = n
	}
	if got := values(text, conflictsTotal); !maps.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}
