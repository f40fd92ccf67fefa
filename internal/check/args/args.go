// Package args reads the arguments of the command check: ports, ranges, services, addresses, and paths of
// Unix sockets.
package args

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"sockstate_exporter/internal/report"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/unixsock"
	"sockstate_exporter/internal/watch"
)

// forms are what an argument may be.
const forms = "want a port (4840), a range (8000-8010), a service (http), or an address with a port (127.0.0.1:8080, [::1]:8080), each with or without a protocol (53/udp), or the path of a Unix socket (/run/app.sock, ./app.sock, @abstract)"

// A List is the arguments, as they were given: a value of kingpin.
type List []string

// Set adds an argument.
func (l *List) Set(s string) error {
	*l = append(*l, strings.TrimPrefix(s, noFile))
	return nil
}

func (*List) String() string { return "" }

// IsCumulative says that there may be several.
func (*List) IsCumulative() bool { return true }

// noFile is put before an argument that begins with @, so that kingpin does not read a file in its place.
const noFile = "\x00"

// NoFiles is a command line of which kingpin reads no file. A List takes the arguments as they were.
func NoFiles(line []string) []string {
	out := slices.Clone(line)
	for i := range out {
		if strings.HasPrefix(out[i], "@") {
			out[i] = noFile + out[i]
		}
	}
	return out
}

// Parse reads an argument that is no Unix socket. The error is for one line, and names the argument.
func Parse(s string) (report.Target, error) {
	ports, protocol := s, ""
	if before, after, ok := strings.Cut(s, "/"); ok && (after == "tcp" || after == "udp") {
		ports, protocol = before, after
	}
	address, ports, err := cutAddress(ports)
	if err != nil {
		return report.Target{}, fmt.Errorf("%q: %w", s, err)
	}
	target, err := parsePorts(ports, protocol)
	if err != nil {
		return report.Target{}, fmt.Errorf("%q: %w", s, err)
	}
	target.Address, target.UDP, target.NoTCP = address, protocol != "tcp", protocol == "udp"
	return target, nil
}

// cutAddress reads the address before the ports, if there is one.
func cutAddress(s string) (report.Address, string, error) {
	_, err := time.ParseDuration(s)
	switch {
	case strings.Contains(s, "/"):
		if port, _, _ := strings.Cut(s, "/"); isNumber(port) || strings.Contains(port, ":") {
			return report.Address{}, "", errors.New("want /tcp or /udp behind the port; " + forms)
		}
		return report.Address{}, "", unixsock.ErrNoName
	case err == nil && !isNumber(s):
		return report.Address{}, "", errors.New("to wait for so long, write --wait=" + s)
	}
	colon := strings.LastIndexByte(s, ':')
	if colon < 0 {
		return report.Address{}, s, nil
	}
	host := s[:colon]
	if bare, ok := strings.CutPrefix(host, "["); ok && strings.HasSuffix(bare, "]") && strings.Contains(bare, ":") {
		host = strings.TrimSuffix(bare, "]")
	} else if _, err := netip.ParseAddr(s); err == nil {
		return report.Address{}, "", fmt.Errorf("an address without a port, want [%s]:8080, or --address=%s and a port", s, s)
	} else if strings.ContainsAny(host, ":[]") || host == "" {
		return report.Address{}, "", errors.New(forms)
	}
	if _, err := netip.ParseAddr(host); err != nil {
		return report.Address{}, "", fmt.Errorf("%q is not an IP address, and names are not looked up; %s", host, forms)
	}
	address, err := parseAddress(host)
	return address, s[colon+1:], err
}

// parsePorts reads a port, a range, or the name of a service. A service without a protocol is one of TCP, if
// there is one.
func parsePorts(s, protocol string) (report.Target, error) {
	if isName(s) {
		port, err := net.DefaultResolver.LookupPort(context.Background(), cmp.Or(protocol, "tcp"), s)
		if err != nil && protocol == "" {
			port, err = net.DefaultResolver.LookupPort(context.Background(), "udp", s)
		}
		if err != nil || port < 1 || port > 65535 {
			return report.Target{}, errors.New("no " + cmp.Or(strings.ToUpper(protocol), "TCP or UDP") + " service of that name in /etc/services; " + forms)
		}
		return report.Target{PortRange: sock.PortRange{First: uint16(port), Last: uint16(port)}, Name: s}, nil
	}
	if _, err := netip.ParseAddr(s); err == nil {
		return report.Target{}, fmt.Errorf("an address without a port, want %s:8080, or --address=%s and a port", s, s)
	}
	if !isNumber(strings.Replace(s, "-", "", 1)) {
		return report.Target{}, errors.New(forms)
	}
	ports, err := watch.ParseRange(s)
	return report.Target{PortRange: ports}, err
}

func isNumber(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// isName says whether the argument can be the name of a service (services(5)): it has a letter.
func isName(s string) bool {
	isLetter := func(r rune) bool { return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' }
	other := func(r rune) bool { return !isLetter(r) && !strings.ContainsRune("0123456789-_.+", r) }
	return len(s) <= 64 && strings.ContainsFunc(s, isLetter) && !strings.ContainsFunc(s, other)
}

// Targets are the arguments that are ports, with the addresses of --address for those that have none.
func Targets(what []string, addresses []report.Address) ([]report.Target, error) {
	var out []report.Target
	for _, s := range what {
		if unixsock.IsName(s) {
			continue
		}
		target, err := Parse(s)
		if err != nil {
			return nil, err
		}
		if target.Address.Addr.IsValid() || len(addresses) == 0 {
			out = append(out, target)
			continue
		}
		for _, a := range addresses {
			target.Address = a
			out = append(out, target)
		}
	}
	return out, nil
}

// Names are the arguments that are Unix sockets.
func Names(what []string) ([]unixsock.Name, error) {
	var out []unixsock.Name
	for _, s := range what {
		if !unixsock.IsName(s) {
			continue
		}
		name, err := unixsock.ParseName(s)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", s, err)
		}
		out = append(out, name)
	}
	return out, nil
}
