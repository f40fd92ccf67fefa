package alerts_test

import (
	"maps"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sockstate_exporter/internal/kerneltest"
)

func TestAlertmanagerTakesTheExample(t *testing.T) {
	amtool := kerneltest.RequireCommand(t, "amtool")
	cmd := exec.CommandContext(t.Context(), amtool, "check-config", alertmanagerFile)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("amtool check-config: %v\n%s", err, out)
	}
}

func TestSeverityDecidesWhoIsTold(t *testing.T) {
	amtool := kerneltest.RequireCommand(t, "amtool")
	receivers := map[string]string{"critical": "pager", "warning": "tickets", "info": "notes"}
	for _, a := range loadRules(t).Alerts() {
		severity := a.Labels["severity"]
		verifyRoute(t, amtool, receivers[severity], "alertname="+a.Alert, "severity="+severity)
	}
	// The alerts of others go where they went before.
	verifyRoute(t, amtool, "tickets", "alertname=NodeDown", "severity=critical")
}

func verifyRoute(t *testing.T, amtool, receiver string, labels ...string) {
	t.Helper()
	args := append([]string{"config", "routes", "test", "--config.file=" + alertmanagerFile, "--verify.receivers=" + receiver}, labels...)
	if out, err := exec.CommandContext(t.Context(), amtool, args...).CombinedOutput(); err != nil {
		t.Errorf("%v do not go to %s: %v\n%s", labels, receiver, err, out)
	}
}

// An inhibition, in Alertmanager's words: a firing source silences a target where the labels
// in Equal are the same, or missing on both.
type inhibition struct {
	Source []string `yaml:"source_matchers"`
	Target []string `yaml:"target_matchers"`
	Equal  []string
}

type labelSet map[string]string

func (i *inhibition) silences(t *testing.T, source, target labelSet) bool {
	t.Helper()
	return matchesAll(t, i.Source, source) && matchesAll(t, i.Target, target) &&
		!slices.ContainsFunc(i.Equal, func(l string) bool { return source[l] != target[l] })
}

var matcher = regexp.MustCompile(`^(\w+)(=~|!=|=)"([^"]*)"$`)

func matchesAll(t *testing.T, matchers []string, labels labelSet) bool {
	t.Helper()
	return !slices.ContainsFunc(matchers, func(text string) bool {
		m := matcher.FindStringSubmatch(text)
		if m == nil {
			t.Fatalf("matcher %s cannot be read", text)
		}
		switch value := labels[m[1]]; m[2] {
		case "=~":
			return !regexp.MustCompile("^(?:" + m[3] + ")$").MatchString(value)
		case "!=":
			return value == m[3]
		default:
			return value != m[3]
		}
	})
}

func loadInhibitions(t *testing.T) []inhibition {
	t.Helper()
	var config struct {
		Rules []inhibition `yaml:"inhibit_rules"`
	}
	unmarshal(t, alertmanagerFile, &config)
	return config.Rules
}

func silenced(t *testing.T, source, target labelSet) bool {
	t.Helper()
	return slices.ContainsFunc(loadInhibitions(t), func(i inhibition) bool { return i.silences(t, source, target) })
}

// on is an alert of one host's port 4840, as the rules label it, and more.
func on(alert string, more ...string) labelSet {
	labels := labelSet{"alertname": alert, "job": "sockstate", "instance": "a:10048", "port": "4840"}
	for _, l := range more {
		name, value, _ := strings.Cut(l, "=")
		labels[name] = value
	}
	return labels
}

func TestWhatIsExplainedStaysSilent(t *testing.T) {
	for _, c := range []struct {
		what           string
		source, target labelSet
		want           bool
	}{
		{"blocked: missing is silent", on("SockstateBindBlocked", "family=ipv4"), on("SockstateListenerMissing", "name=opcua", "source=flag"), true},
		{"in the same namespace", on("SockstateBindBlocked", "netns=blue"), on("SockstateListenerMissing", "netns=blue"), true},
		{"not in another", on("SockstateBindBlocked", "netns=blue"), on("SockstateListenerMissing"), false},
		{"not of another port", on("SockstateBindBlocked"), on("SockstateListenerMissing", "port=80"), false},
		{"not of another host", on("SockstateBindBlocked"), on("SockstateListenerMissing", "instance=b:10048"), false},
		{"missing does not silence blocked", on("SockstateListenerMissing"), on("SockstateBindBlocked"), false},
		{"blocked: tried for long is silent", on("SockstateBindBlocked", "family=ipv4"), on("SockstateBindRetriedForLong", "family=ipv4"), true},
		{"not of the other family", on("SockstateBindBlocked", "family=ipv4"), on("SockstateBindRetriedForLong", "family=ipv6"), false},
		{"queue full: drops are silent", on("SockstateAcceptQueueSaturated", "address=::"), on("SockstateListenerDrops", "address=::"), true},
		{"not of another address", on("SockstateAcceptQueueSaturated", "address=::"), on("SockstateListenerDrops", "address=0.0.0.0"), false},
	} {
		if got := silenced(t, c.source, c.target); got != c.want {
			t.Errorf("%s: %v silences %v: %t, want %t", c.what, c.source, c.target, got, c.want)
		}
	}
}

func TestAnExporterThatIsDownSilencesItsHostAndNoOther(t *testing.T) {
	down := labelSet{"alertname": "SockstateExporterDown", "job": "sockstate", "instance": "a:10048"}
	for _, alert := range alertNames(loadRules(t)) {
		if alert == down["alertname"] {
			continue
		}
		if !silenced(t, down, on(alert)) {
			t.Errorf("%s of the host is not silenced", alert)
		}
		if silenced(t, down, on(alert, "instance=b:10048")) {
			t.Errorf("%s of another host is silenced", alert)
		}
	}
	if silenced(t, down, down) {
		t.Error("it silences itself")
	}
	if silenced(t, down, on("NodeFilesystemAlmostFull")) {
		t.Error("it silences the alerts of others")
	}
}

// An inhibition of alerts, or by labels, that do not exist never happens.
func TestInhibitionsAreOfAlertsAndLabelsThatExist(t *testing.T) {
	labels := make(map[string]map[string]bool)
	for _, test := range loadUnitTests(t) {
		for _, c := range test.Cases {
			for _, e := range c.Expected {
				if labels[c.Alert] == nil {
					labels[c.Alert] = make(map[string]bool)
				}
				for l := range maps.Keys(e.Labels) {
					labels[c.Alert][l] = true
				}
			}
		}
	}
	for _, i := range loadInhibitions(t) {
		for _, side := range [][]string{i.Source, i.Target} {
			var named []string
			for alert := range labels {
				if matchesAll(t, side, labelSet{"alertname": alert}) {
					named = append(named, alert)
				}
			}
			if len(named) == 0 {
				t.Errorf("%v: no such alert", side)
			}
			for _, alert := range named {
				for _, l := range i.Equal {
					if !labels[alert][l] {
						t.Errorf("%s has no label %q, in which it would have to be equal", alert, l)
					}
				}
			}
		}
	}
}
