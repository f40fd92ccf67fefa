package netns

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// A Spec says where to look for namespaces. It is one value of --netns.
type Spec struct {
	pattern string
	glob    bool
}

// ParseSpec parses the name of a namespace in /run/netns ("blue") or a glob of such names
// ("cni-*"). With a slash it is the absolute path of a file that is a network namespace
// ("/proc/1/ns/net"), or a glob of such paths ("/var/run/docker/netns/*"). Globs are those of
// [filepath.Match].
func ParseSpec(s string) (Spec, error) {
	switch {
	case s == "":
		return Spec{}, errors.New("network namespace is empty: want a name, a glob or a path")
	case strings.ContainsRune(s, 0):
		return Spec{}, fmt.Errorf("network namespace %q has a zero byte", s)
	case s == ".", s == "..":
		return Spec{}, fmt.Errorf("network namespace %q is a directory", s)
	case strings.Contains(s, "/") && !filepath.IsAbs(s):
		return Spec{}, fmt.Errorf("network namespace %q: a path must begin with a slash", s)
	}
	glob := strings.ContainsAny(s, `*?[\`)
	if _, err := filepath.Match(s, ""); err != nil {
		return Spec{}, fmt.Errorf("network namespace %q: %w", s, err)
	}
	return Spec{pattern: s, glob: glob}, nil
}

// String returns what was parsed.
func (s Spec) String() string { return s.pattern }

// Glob reports whether it is a glob. What it finds is called by its container, if it has one.
func (s Spec) Glob() bool { return s.glob }

// paths returns the files to open, sorted.
func (s Spec) paths(dir string) ([]string, error) {
	pattern := s.pattern
	if !filepath.IsAbs(pattern) {
		// dir is not a pattern.
		pattern = globEscape(dir) + "/" + pattern
		if !s.glob {
			return []string{filepath.Join(dir, s.pattern)}, nil
		}
	}
	if !s.glob {
		return []string{pattern}, nil
	}
	return filepath.Glob(pattern)
}

func globEscape(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}
