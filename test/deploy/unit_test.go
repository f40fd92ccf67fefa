package deploy

import (
	"slices"
	"strings"
	"testing"
)

// A unit is what systemd reads: the values of each directive, in order.
type unit map[string][]string

// parseUnits reads a unit and its drop-ins. An empty value forgets what came before
// (systemd.syntax(7)).
func parseUnits(t *testing.T, paths ...string) unit {
	t.Helper()
	u := make(unit)
	for _, path := range paths {
		section := ""
		for line := range strings.Lines(read(t, path)) {
			line = strings.TrimSpace(line)
			if line == "" || line[0] == '#' || line[0] == ';' {
				continue
			}
			if line[0] == '[' {
				section = strings.Trim(line, "[]")
				continue
			}
			name, value, ok := strings.Cut(line, "=")
			if !ok {
				t.Fatalf("%s: %q is no directive", path, line)
			}
			if name = section + "." + name; value == "" {
				delete(u, name)
				continue
			}
			u[name] = append(u[name], value)
		}
	}
	return u
}

// words are all words of a directive's values.
func (u unit) words(name string) []string {
	return strings.Fields(strings.Join(u["Service."+name], " "))
}

// yes reports whether a switch is on.
func (u unit) yes(name string) bool {
	values := u["Service."+name]
	return len(values) > 0 && values[len(values)-1] == "yes"
}

// args are the command line of ExecStart= without the program.
func (u unit) args(t *testing.T, env map[string]string) []string {
	t.Helper()
	lines := u["Service.ExecStart"]
	if len(lines) != 1 {
		t.Fatalf("%d commands, want 1: %q", len(lines), lines)
	}
	var out []string
	for _, word := range strings.Fields(lines[0])[1:] {
		if name, ok := strings.CutPrefix(word, "$"); ok {
			out = append(out, strings.Fields(env[name])...)
			continue
		}
		out = append(out, word)
	}
	return out
}

// without is the unit with one word of a directive taken out.
func (u unit) without(t *testing.T, name, word string) unit {
	t.Helper()
	out := make(unit)
	found := false
	for key, values := range u {
		for _, value := range values {
			fields := strings.Fields(value)
			if n := slices.Index(fields, word); key == "Service."+name && n >= 0 {
				fields, found = slices.Delete(fields, n, n+1), true
			}
			out[key] = append(out[key], strings.Join(fields, " "))
		}
	}
	if !found {
		t.Fatalf("%s= has no %s", name, word)
	}
	return out
}
