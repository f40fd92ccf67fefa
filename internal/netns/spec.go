package netns

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// A Spec says where to look for namespaces: one value of --netns.
type Spec struct {
	pattern string
	glob    bool
}

// ParseSpec parses the name of a namespace in /run/netns ("blue"), a glob of
// such names ("cni-*"), or, if it has a slash, the absolute path or a glob of
// paths of files that are network namespaces ("/var/run/docker/netns/*",
// "/proc/1/ns/net"). Globs are those of [filepath.Match].
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

// paths returns what there may be to open, in the order of the names.
func (s Spec) paths(dir string) ([]string, error) {
	pattern := s.pattern
	if !filepath.IsAbs(pattern) {
		// dir is no pattern.
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
