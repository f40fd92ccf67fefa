package collector

import (
	"strings"
	"testing"

	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/sock"
)

// has says that a label has the value; an empty one is not there.
func has(labels, name, value string) bool {
	if value == "" {
		return !strings.Contains(labels, name+"=")
	}
	return strings.Contains(labels, name+`="`+value+`"`)
}

func TestNamesOfOwners(t *testing.T) {
	id := strings.Repeat("0a", 32)
	for name, tt := range map[string]struct {
		owner owner.Owner
		want  string
	}{
		"none":    {owner.Owner{Process: "a", Unit: "a.service"}, "a a.service "},
		"process": {owner.Owner{Process: "a", Unit: "a.service", Many: owner.Many{Process: true}}, "(many) a.service "},
		"both":    {owner.Owner{Process: "a", Unit: "a.service", Many: owner.Many{Process: true, Unit: true}}, "(many) (many) "},
		"a container with a name": {
			owner.Owner{Process: "a", Unit: "docker-" + id + ".scope", Runtime: sock.RuntimeDocker, Container: id, Named: sock.Container{Name: "web"}}, "a  web",
		},
		"a container without a name": {owner.Owner{Process: "a", Unit: "docker-" + id + ".scope", Runtime: sock.RuntimeDocker, Container: id}, "a docker-0a0a0a0a0a0a "},
		"a unit in a container": {
			owner.Owner{Process: "a", Unit: "docker-0a0a0a0a0a0a/x.service", Runtime: sock.RuntimeDocker, Container: id, Named: sock.Container{Name: "shop-web-1", Service: "web"}}, "a docker-0a0a0a0a0a0a/x.service web",
		},
		"many containers": {owner.Owner{Process: "a", Container: id, Named: sock.Container{Name: "web"}, Many: owner.Many{Process: true, Unit: true}}, "(many)  (many)"},
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
		process, rest, _ := strings.Cut(tt.want, " ")
		unit, container, _ := strings.Cut(rest, " ")
		for _, metric := range []string{
			"sockstate_tcp_listener_info", "sockstate_tcp_restart_info", "sockstate_bind_last_failure_timestamp_seconds",
		} {
			found := false
			for labels := range values(text, metric) {
				found = found || has(labels, "process", process) && has(labels, "unit", unit) && has(labels, "container", container)
			}
			if !found {
				t.Errorf("%s: %s has no process %q of unit %q and container %q: %v", name, metric, process, unit, container, values(text, metric))
			}
		}
	}
}
