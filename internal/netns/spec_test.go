package netns

import (
	"errors"
	"path/filepath"
	"testing"
)

func TestSpecKeepsWhatWasAskedFor(t *testing.T) {
	for _, s := range []string{"blue", "cni-*", "[ab]?", "/var/run/docker/netns/*", "/proc/1/ns/net", "...", "net:[1]"} {
		spec, err := ParseSpec(s)
		if err != nil || spec.String() != s {
			t.Errorf("%q: got %q, error %v", s, spec, err)
		}
	}
}

func TestSpecThatCannotMatchIsRefused(t *testing.T) {
	for s, want := range map[string]string{
		"":         "network namespace is empty: want a name, a glob or a path",
		"a\x00b":   `network namespace "a\x00b" has a zero byte`,
		".":        `network namespace "." is a directory`,
		"..":       `network namespace ".." is a directory`,
		"run/blue": `network namespace "run/blue": a path must begin with a slash`,
		"./*":      `network namespace "./*": a path must begin with a slash`,
		"blue[":    `network namespace "blue[": syntax error in pattern`,
		"/run/[-]": `network namespace "/run/[-]": syntax error in pattern`,
		`blue\`:    `network namespace "blue\\": syntax error in pattern`,
	} {
		_, err := ParseSpec(s)
		if err == nil || err.Error() != want {
			t.Errorf("%q: got error %v, want %s", s, err, want)
		}
	}
	if _, err := ParseSpec("a["); !errors.Is(err, filepath.ErrBadPattern) {
		t.Errorf("got error %v, want %v", err, filepath.ErrBadPattern)
	}
}
