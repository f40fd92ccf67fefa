package unixwatch

import (
	"errors"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/unixsock"
)

// A Spec is a path, an abstract name, or a pattern of paths.
type Spec struct {
	name    unixsock.Name // of a single one
	pattern string        // empty: name
}

// ParseSpec reads "/run/app.sock", "@app" or "/run/*/app.sock", as path.Match has patterns.
func ParseSpec(s string) (Spec, error) {
	if strings.HasPrefix(s, "/") && strings.ContainsAny(s, `*?[\`) {
		if _, err := path.Match(s, ""); err != nil {
			return Spec{}, errors.New("not a pattern: want a ] for each [, and something after each \\")
		}
		if strings.HasSuffix(s, "/") {
			return Spec{}, errors.New("a pattern of directories, want one of sockets, such as /run/*/app.sock")
		}
		return Spec{pattern: path.Clean(s)}, nil
	}
	if !strings.HasPrefix(s, "/") && !strings.HasPrefix(s, "@") {
		return Spec{}, errors.New("want an absolute path (/run/app.sock), a pattern of paths (/run/*/app.sock), or an abstract name (@app)")
	}
	name, err := unixsock.ParseName(s)
	return Spec{name: name}, err
}

// maxEntries is how many names of a directory are read: any user can make as many in some directories.
const maxEntries = 16384

// maxFound bounds the paths that a pattern leads through.
const maxFound = 4096

// glob returns the sockets that a pattern finds, sorted. A part of a path that the pattern names is not
// read, and a symbolic link that a pattern finds is not followed.
func glob(pattern string) []found {
	dirs := []string{"/"}
	parts := strings.Split(strings.TrimPrefix(pattern, "/"), "/")
	for _, part := range parts[:len(parts)-1] {
		dirs = step(dirs, part, true)
	}
	var out []found
	for _, at := range step(dirs, parts[len(parts)-1], false) {
		var st unix.Stat_t
		if err := unix.Lstat(at, &st); err == nil && st.Mode&unix.S_IFMT == unix.S_IFSOCK && len(at) <= unixsock.MaxPath {
			out = append(out, found{path: at, uid: st.Uid})
		}
	}
	return out
}

// A found is a socket that a pattern has found.
type found struct {
	path string
	uid  uint32
}

// step goes on by a part of the pattern.
func step(dirs []string, part string, wantDir bool) []string {
	var out []string
	for _, dir := range dirs {
		names := []string{part}
		if strings.ContainsAny(part, `*?[\`) {
			names = matching(dir, part, wantDir)
		}
		for _, name := range names {
			if len(out) == maxFound {
				return out
			}
			out = append(out, path.Join(dir, name))
		}
	}
	return out
}

// matching returns the names in a directory that match, sorted.
func matching(dir, pattern string, wantDir bool) []string {
	f, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer f.Close()
	entries, _ := f.ReadDir(maxEntries) // what was read counts
	var out []string
	for _, e := range entries {
		ok, err := path.Match(pattern, e.Name())
		hidden := strings.HasPrefix(e.Name(), ".") && !strings.HasPrefix(pattern, ".")
		if err == nil && ok && !hidden && (e.IsDir() == wantDir) {
			out = append(out, e.Name())
		}
	}
	slices.Sort(out)
	return out
}
