package netns

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/sock"
)

func TestTwoNamesOfOneNamespace(t *testing.T) {
	ns := kerneltest.New(t)
	dir, other := t.TempDir(), t.TempDir()
	pin(t, ns, dir, "a")
	pin(t, ns, dir, "b")
	path := pin(t, ns, other, "c")
	for want, asked := range map[string][]string{
		"a=1": {"*", path},
		"b=1": {"b", "a", path},
		"c=1": {path, "*"},
	} {
		s := open(t, discoverer(t, Config{Dir: dir, Specs: specs(t, asked...)}))
		if got := names(s, ns); got != want {
			t.Errorf("%q: got %s, want %s", asked, got, want)
		}
	}
}

func TestEqualNamesOfTwoNamespaces(t *testing.T) {
	a, b := kerneltest.New(t), kerneltest.New(t)
	x, y := t.TempDir(), t.TempDir()
	first, second := pin(t, a, x, "n"), pin(t, b, y, "n")
	both := filepath.Dir(x) + "/*/n"
	for want, asked := range map[string][]string{
		first + "=1 " + second + "=2": {both},
		second + "=2 n=1":             {first, second},
		first + "=1 n=2":              {second, first},
	} {
		if len(first) > sock.MaxPrintable {
			t.Fatalf("path %s is too long for this test", first)
		}
		s := open(t, discoverer(t, Config{Dir: x, Specs: specs(t, asked...)}))
		if got := names(s, a, b); got != want {
			t.Errorf("%q: got %s, want %s", asked, got, want)
		}
	}
}

func TestHostileNames(t *testing.T) {
	dir := t.TempDir()
	long := strings.Repeat("x", 200)
	var all []*kerneltest.NetNS
	for _, name := range []string{
		"\xff", "\xfe", "\n", "\r", long + "1", long + "2", "\u202e", " ", `"`, "{}",
	} {
		ns := kerneltest.New(t)
		all = append(all, ns)
		pin(t, ns, dir, name)
	}
	// As another one would be called.
	fake := kerneltest.New(t)
	pin(t, fake, dir, fmt.Sprintf("net:[%d]", all[0].Inode()))
	pin(t, kerneltest.New(t), dir, strings.TrimPrefix(numbered("\ufffd", all[0].Inode(), sock.MaxPrintable), "/"))

	s := open(t, discoverer(t, Config{Dir: dir, Specs: specs(t, "*")}))
	if len(s.Namespaces) != len(all)+2 {
		t.Errorf("got %d namespaces, want %d", len(s.Namespaces), len(all)+2)
	}
	taken := make(map[string]bool)
	for _, n := range s.Namespaces {
		if taken[n.Name] {
			t.Errorf("got %q twice", n.Name)
		}
		taken[n.Name] = true
		if runes := utf8.RuneCountInString(n.Name); runes == 0 || runes > sock.MaxPrintable || !utf8.ValidString(n.Name) {
			t.Errorf("got %q: %d runes", n.Name, runes)
		}
		if strings.ContainsFunc(n.Name, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("got %q", n.Name)
		}
		if strings.Contains(n.Name, "net:[") && !strings.Contains(n.Name, fmt.Sprintf("net:[%d]", n.ID.Inode)) {
			t.Errorf("namespace %d is called %q", n.ID.Inode, n.Name)
		}
	}
}

func TestLimitKeepsWhatWasThere(t *testing.T) {
	dir := t.TempDir()
	var all []*kerneltest.NetNS
	for _, name := range []string{"d", "c", "b"} {
		ns := kerneltest.New(t)
		all = append(all, ns)
		pin(t, ns, dir, name)
	}
	d := discoverer(t, Config{Dir: dir, Specs: specs(t, "*"), Limit: 2})
	late := kerneltest.New(t)
	all = append(all, late)
	for _, dropped := range []int{1, 2} {
		s := open(t, d)
		if got := names(s, all...); got != "b=3 c=2" || s.Dropped != dropped {
			t.Errorf("got %s, dropped %d, want b=3 c=2, dropped %d", got, s.Dropped, dropped)
		}
		if dropped == 1 {
			pin(t, late, dir, "a")
		}
	}
	// A name that was asked for comes before the name of a process.
	sleeper(t, kerneltest.New(t))
	d = discoverer(t, Config{Dir: dir, Specs: specs(t, "asked"), Processes: true, Limit: 1})
	if got := openAmid(t, d); len(got.Namespaces) != 1 {
		t.Fatalf("got %s, want that of a process", names(got))
	}
	pin(t, kerneltest.New(t), dir, "asked")
	if got := names(openAmid(t, d)); got != "asked=0" {
		t.Errorf("got %s, want asked=0", got)
	}
}
