package collector

import (
	"strings"
	"testing"

	"sockstate_exporter/internal/owner"
)

func TestNamesThatAreLeftOutAreOneWord(t *testing.T) {
	for name, tt := range map[string]struct {
		owner owner.Owner
		want  string
	}{
		"none":    {owner.Owner{Process: "a", Unit: "a.service"}, "a a.service"},
		"process": {owner.Owner{Process: "a", Unit: "a.service", Many: owner.Many{Process: true}}, "(many) a.service"},
		"both":    {owner.Owner{Process: "a", Unit: "a.service", Many: owner.Many{Process: true, Unit: true}}, "(many) (many)"},
	} {
		s := wholeSnapshot(t)
		s.Listeners.Data = s.Listeners.Data[:1]
		s.Listeners.Data[0].Owner = tt.owner
		s.Verdicts.Data[0].Restarts = s.Verdicts.Data[0].Restarts[:1]
		s.Verdicts.Data[0].Restarts[0].Owner = tt.owner
		s.Binds.Data.Latest = s.Binds.Data.Latest[:1]
		s.Binds.Data.Latest[0].Process, s.Binds.Data.Latest[0].Owner = tt.owner.Process, tt.owner
		c, _ := collectorOf(s)
		text := exposition(t, c)
		process, unit, _ := strings.Cut(tt.want, " ")
		for _, metric := range []string{
			"sockstate_tcp_listener_info", "sockstate_tcp_restart_info", "sockstate_bind_last_failure_timestamp_seconds",
		} {
			found := false
			for labels := range values(text, metric) {
				found = found || strings.Contains(labels, `process="`+process+`"`) && strings.Contains(labels, `unit="`+unit+`"`)
			}
			if !found {
				t.Errorf("%s: %s has no process %q of unit %q: %v", name, metric, process, unit, values(text, metric))
			}
		}
	}
}
