package watch

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"sockstate_exporter/internal/sock"
)

// maxName bounds a port's name in bytes: it becomes a label value.
const maxName = 64

// A Spec is ports somebody asked for and the name they gave them, if any.
type Spec struct {
	sock.PortRange
	Protocol sock.Protocol
	Name     string
}

// An Exclusion is ports not to discover.
type Exclusion struct {
	sock.PortRange
	Protocol sock.Protocol
}

// ParseRange reads a port ("22") or a range of ports ("30000-32767").
// An error quotes what is wrong in s and says what would be right.
func ParseRange(s string) (sock.PortRange, error) {
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		p, err := parsePort(s)
		return sock.PortRange{First: p, Last: p}, err
	}

	var (
		r   sock.PortRange
		err error
	)
	if r.First, err = parsePort(first); err != nil {
		return sock.PortRange{}, fmt.Errorf("range %q: %w", s, err)
	}
	if r.Last, err = parsePort(last); err != nil {
		return sock.PortRange{}, fmt.Errorf("range %q: %w", s, err)
	}
	if err := checkRange(r); err != nil {
		return sock.PortRange{}, err
	}
	return r, nil
}

// ParseExclusion reads what ParseRange does, with an optional protocol after a slash: "22",
// "30000-32767/udp". Without, it is TCP.
// An error quotes what is wrong in s and says what would be right.
func ParseExclusion(s string) (Exclusion, error) {
	ports, protocol, err := cutProtocol(s)
	if err != nil {
		return Exclusion{}, err
	}
	r, err := ParseRange(ports)
	return Exclusion{PortRange: r, Protocol: protocol}, err
}

func cutProtocol(s string) (string, sock.Protocol, error) {
	ports, protocol, given := strings.Cut(s, "/")
	switch {
	case !given, protocol == sock.TCP.String():
		return ports, sock.TCP, nil
	case protocol == sock.UDP.String():
		return ports, sock.UDP, nil
	}
	return "", 0, fmt.Errorf("protocol %q is not known, want tcp or udp", protocol)
}

// ParseSpec reads what ParseExclusion does, with an optional name after a colon:
// "4840", "53/udp", "8000-8010", "4840:opcua", "53/udp:dns". The name is 1 to 64
// bytes of printable UTF-8 without a space at either end; it may hold colons.
// An error quotes what is wrong in s and says what would be right.
func ParseSpec(s string) (Spec, error) {
	ports, name, named := strings.Cut(s, ":")
	e, err := ParseExclusion(ports)
	if err != nil {
		return Spec{}, err
	}
	spec := Spec{PortRange: e.PortRange, Protocol: e.Protocol}
	if !named {
		return spec, nil
	}
	if name == "" {
		return Spec{}, fmt.Errorf("%q has an empty name, want 1 to %d bytes after the colon, or no colon", s, maxName)
	}
	if err := checkName(name); err != nil {
		return Spec{}, err
	}
	spec.Name = name
	return spec, nil
}

// String gives the form that ParseExclusion reads.
func (e Exclusion) String() string {
	if e.Protocol == sock.TCP {
		return e.PortRange.String()
	}
	return e.PortRange.String() + "/" + e.Protocol.String()
}

// String gives the form that ParseSpec reads.
func (s Spec) String() string {
	ports := Exclusion{PortRange: s.PortRange, Protocol: s.Protocol}.String()
	if s.Name == "" {
		return ports
	}
	return ports + ":" + s.Name
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	switch {
	case errors.Is(err, strconv.ErrRange), err == nil && n == 0:
		return 0, fmt.Errorf("port %q is out of range, want 1 to 65535", s)
	case err != nil:
		return 0, fmt.Errorf("port %q is not a number, want 1 to 65535", s)
	}
	return uint16(n), nil
}

func checkRange(r sock.PortRange) error {
	if r.First == 0 || r.Last == 0 {
		return fmt.Errorf("range %q holds port 0, want 1 to 65535", r)
	}
	if r.First > r.Last {
		return fmt.Errorf("range %q is reversed, want %q", r, sock.PortRange{First: r.Last, Last: r.First})
	}
	return nil
}

func (e Exclusion) check() error {
	if e.Protocol > sock.UDP {
		return fmt.Errorf("protocol %s has no watched ports, want tcp or udp", e.Protocol)
	}
	return checkRange(e.PortRange)
}

// check is for specs that did not come from ParseSpec.
func (s Spec) check() error {
	if err := (Exclusion{PortRange: s.PortRange, Protocol: s.Protocol}).check(); err != nil {
		return err
	}
	if s.Name == "" {
		return nil
	}
	return checkName(s.Name)
}

// checkName keeps what a label value and a terminal show as it was given.
func checkName(name string) error {
	if len(name) > maxName {
		return fmt.Errorf("name %.16q... has %d bytes, want 1 to %d", name, len(name), maxName)
	}
	if !utf8.ValidString(name) {
		return fmt.Errorf("name %q is not valid UTF-8, want printable UTF-8", name)
	}
	if strings.TrimSpace(name) != name {
		return fmt.Errorf("name %q begins or ends with a space, want %q", name, strings.TrimSpace(name))
	}
	for _, r := range name {
		if !unicode.IsPrint(r) {
			return fmt.Errorf("name %q holds %q, want printable UTF-8", name, r)
		}
	}
	return nil
}
