package chart

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A row is one of the first table of docs/privileges.md: a feature in a mode, and what it needs.
type row struct{ feature, mode, needs string }

func rows(t *testing.T) []row {
	t.Helper()
	_, table, _ := strings.Cut(read(t, "../../docs/privileges.md"), "|---|")
	table, _, _ = strings.Cut(table, "\n\n")
	var out []row
	feature := ""
	for line := range strings.Lines(table) {
		cells := strings.Split(line, " | ")
		if len(cells) < 4 {
			continue
		}
		if name := strings.Trim(cells[0], "|` "); name != "" {
			feature = name
		}
		// Where the kernel forbids it, CAP_SYS_ADMIN is the operator's decision (extraCapabilities).
		needs, _, _ := strings.Cut(cells[2], " If `kernel.perf_event_paranoid`")
		out = append(out, row{feature, strings.Trim(cells[1], "| `"), needs})
	}
	return out
}

// needed are the capabilities of a feature's rows; of one mode, or of all.
func needed(t *testing.T, feature, modes string) []string {
	t.Helper()
	var out []string
	found := false
	for _, r := range rows(t) {
		if r.feature != feature || !regexp.MustCompile("^(?:"+modes+")$").MatchString(r.mode) {
			continue
		}
		found = true
		for _, name := range regexp.MustCompile(`CAP_\w+`).FindAllString(r.needs, -1) {
			out = append(out, strings.TrimPrefix(name, "CAP_"))
		}
	}
	if !found {
		t.Fatalf("docs/privileges.md has no row of %s with the mode %s", feature, modes)
	}
	return out
}

func capabilities(t *testing.T, objects objects) []string {
	t.Helper()
	var out []string
	for _, name := range podSpec(t, objects).Containers[0].SecurityContext.Capabilities.Add {
		out = append(out, string(name))
	}
	return out
}

func set(names ...[]string) []string {
	out := slices.Concat(names...)
	slices.Sort(out)
	return slices.Compact(out)
}

const (
	all    = ".*"
	newest = "fexit|kprobe|bpf" // what recent kernels have
)

func TestPodHasTheCapabilitiesOfItsFeaturesAndNoOthers(t *testing.T) {
	names := needed(t, "namespaces", "--netns")
	if len(names) != 3 || names[0] != "SYS_ADMIN" {
		t.Fatalf("--netns needs %v, want SYS_ADMIN, and two more for paths", names)
	}
	for _, c := range []struct {
		features string
		want     []string
	}{
		{"", nil},
		{"bindTracing: true", needed(t, "bind_tracing", newest)},
		{"reuseFlags: true", needed(t, "reuse_flags", newest)},
		{"owners: true", needed(t, "owners", newest)},
		{"fallbacks: true", nil},
		{"bindTracing: true, fallbacks: true", needed(t, "bind_tracing", all)},
		{"reuseFlags: true, fallbacks: true", needed(t, "reuse_flags", all)},
		{"owners: true, fallbacks: true", needed(t, "owners", all)},
		{"namespaces: {processes: true}", needed(t, "namespaces", "--netns.processes")},
		{"namespaces: {names: [blue, cni-*]}", names[:1]},
		{"namespaces: {names: [/var/run/docker/netns/*]}", names[:2]},
		{"namespaces: {names: [/proc/1/ns/net]}", names},
		{
			"bindTracing: true, reuseFlags: true, owners: true, fallbacks: true, namespaces: {processes: true, names: [/proc/1/ns/net]}",
			set(needed(t, "bind_tracing", all), needed(t, "reuse_flags", all), needed(t, "owners", all), names),
		},
	} {
		values := "features: {" + c.features + "}"
		for _, feature := range []string{"bindTracing", "reuseFlags", "owners", "fallbacks"} {
			if !strings.Contains(c.features, feature) {
				values = strings.Replace(values, "{", "{"+feature+": false, ", 1)
			}
		}
		if got := capabilities(t, render(t, values)); !slices.Equal(got, set(c.want)) {
			t.Errorf("with {%s} the pod has %v, docs/privileges.md has %v", c.features, got, set(c.want))
		}
	}
}

// The plain manifests have the features that are on by default.
func TestPlainManifestsHaveTheCapabilitiesOfTheDocumentation(t *testing.T) {
	m := regexp.MustCompile(`together:\n\n {4}((?:CAP_\w+ ?)+)\n`).FindStringSubmatch(read(t, "../../docs/privileges.md"))
	if m == nil {
		t.Fatal("docs/privileges.md sums up no capabilities")
	}
	want := set(strings.Fields(strings.ReplaceAll(m[1], "CAP_", "")))
	for from, objects := range map[string]objects{"deploy/kubernetes": plainManifests(t), "the chart": render(t, "")} {
		if got := capabilities(t, objects); !slices.Equal(got, want) {
			t.Errorf("%s: capabilities %v, docs/privileges.md has %v", from, got, want)
		}
	}
}

func TestPortBelow1024HasItsCapability(t *testing.T) {
	got := capabilities(t, render(t, "port: 443"))
	if want := set(capabilities(t, render(t, "")), []string{"NET_BIND_SERVICE"}); !slices.Equal(got, want) {
		t.Errorf("capabilities %v, want %v", got, want)
	}
}
