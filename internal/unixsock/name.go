package unixsock

import (
	"errors"
	"fmt"
	"strings"

	"sockstate_exporter/internal/words"
)

// MaxPath is the length of sun_path in bytes: the longest path that bind(2) takes.
const MaxPath = 108

// A Name is what a Unix socket is bound to. It may have any bytes.
type Name struct {
	Path     string // or the abstract name, without the 0 at its beginning
	Abstract bool
}

// ErrNoName means that a text is neither a path nor an abstract name.
var ErrNoName = errors.New("want a path that begins with / or ./ (/run/app.sock, ./app.sock), or an abstract name (@app)")

// IsName says whether a text is meant as a Name, and not as a port, an address or a network.
func IsName(s string) bool {
	for _, begin := range [...]string{"/", "./", "../", "@"} {
		if strings.HasPrefix(s, begin) {
			return true
		}
	}
	return false
}

// ParseName reads a Name: "@app" is abstract.
func ParseName(s string) (Name, error) {
	name := Name{Path: s}
	if abstract, ok := strings.CutPrefix(s, "@"); ok {
		name = Name{Path: abstract, Abstract: true}
	}
	switch {
	case !IsName(s):
		return Name{}, ErrNoName
	case len(s) > MaxPath: // an abstract name has a 0 in place of the @
		return Name{}, fmt.Errorf("%d bytes long, and the kernel takes at most %d (sun_path)", len(s), MaxPath)
	case name.Abstract && name.Path == "":
		return Name{}, errors.New("an abstract name without a name, want @app")
	case strings.HasSuffix(s, "/") && !name.Abstract:
		return Name{}, errors.New("a directory, want the path of a socket in it")
	case strings.ContainsRune(s, 0):
		return Name{}, errors.New("a path has no byte 0")
	}
	return name, nil
}

// String is the name in one line of printable ASCII: a path, or @ and the abstract name.
func (n Name) String() string {
	if n.Abstract {
		return words.Name("@" + n.Path)
	}
	return words.Name(n.Path)
}
