package check

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"github.com/alecthomas/kingpin/v2"

	"sockstate_exporter/internal/report"
	"sockstate_exporter/internal/watch"
)

const name = "sockstate_exporter check"

const help = `Say whether bind() to a TCP port would work now, what blocks it, for how long, and what to do about it.

The report has an answer for a server without SO_REUSEADDR and one for a server with it. The exit status is for the server without, or with --reuseaddr for the server with it. A listener blocks a bind like any other socket. The report also says whether the listener could bind again if it restarted.

Exit status: 0 free, on every port and address; 1 blocked; 2 not known, or an error. docs/check.md describes the JSON output.`

// options are the command line.
type options struct {
	ports     []watch.Spec
	netns     string // empty: the one that it runs in
	addresses []report.Address
	reuseAddr bool
	json      bool
}

// parse reads the command line. It returns nil if that asks for help.
func parse(args []string, stdout, stderr io.Writer) (*options, error) {
	var opts options
	var addresses []string
	finished := false
	app := kingpin.New(name, help)
	app.UsageWriter(stdout).ErrorWriter(stderr).Terminate(func(int) { finished = true })
	app.HelpFlag.Short('h')
	app.Flag("json", "Write JSON for programs instead of text.").BoolVar(&opts.json)
	app.Flag("address", "Address to bind to. Repeatable. Default: the addresses that listen on the port, or 0.0.0.0 and :: if nothing listens.").
		PlaceHolder("ADDR").StringsVar(&addresses)
	app.Flag("reuseaddr", "The server sets SO_REUSEADDR; the exit status is for such a server.").BoolVar(&opts.reuseAddr)
	app.Flag("netns", "Check in this network namespace: a name in /run/netns, or a path such as /proc/4711/ns/net.").
		PlaceHolder("NAME|PATH").StringVar(&opts.netns)
	app.Arg("port", "TCP port, or a range such as 8000-8010.").Required().SetValue((*portArgs)(&opts.ports))

	_, err := app.Parse(args)
	switch {
	case finished:
		return nil, nil
	case err != nil && !hasArgs(app, args):
		return nil, errors.New("no port given, want one or more, such as 4840 (try --help)")
	case err != nil:
		return nil, fmt.Errorf("%w (try --help)", err)
	}
	// Addresses and their interfaces are those of the namespace.
	if opts.netns != "" {
		if err := enter(opts.netns); err != nil {
			return nil, fmt.Errorf("--netns=%s: %w (try --help)", opts.netns, err)
		}
	}
	if opts.addresses, err = parseAddresses(addresses); err != nil {
		return nil, fmt.Errorf("%w (try --help)", err)
	}
	return &opts, nil
}

// hasArgs says whether a command line has arguments beside flags. It is true if a flag does not
// exist, since kingpin parses no further.
func hasArgs(app *kingpin.Application, args []string) bool {
	parsed, err := app.ParseContext(args)
	return err != nil || slices.ContainsFunc(parsed.Elements, func(e *kingpin.ParseElement) bool {
		_, isArg := e.Clause.(*kingpin.ArgClause)
		return isArg
	})
}

// portArgs are the arguments.
type portArgs []watch.Spec

func (p *portArgs) Set(s string) error {
	r, err := watch.ParseRange(s)
	if err != nil {
		return err
	}
	*p = append(*p, watch.Spec{PortRange: r})
	return nil
}

func (*portArgs) String() string     { return "" }
func (*portArgs) IsCumulative() bool { return true }

func parseAddresses(list []string) ([]report.Address, error) {
	var addresses []report.Address
	for _, s := range list {
		address, err := parseAddress(s)
		if err != nil {
			return nil, fmt.Errorf("--address=%s: %w", s, err)
		}
		if !slices.Contains(addresses, address) {
			addresses = append(addresses, address)
		}
	}
	return addresses, nil
}

func parseAddress(s string) (report.Address, error) {
	addr, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return report.Address{}, errors.New("want an IP address without port or name, such as :: or 127.0.0.1")
	case addr.Zone() == "" && addr.IsLinkLocalUnicast() && addr.Is6():
		return report.Address{}, fmt.Errorf("a link-local address needs its interface, such as %s%%eth0", s)
	case addr.Zone() != "" && !addr.IsLinkLocalUnicast():
		return report.Address{}, fmt.Errorf("only a link-local address has an interface, want %s", addr.WithZone(""))
	}
	address := report.Address{Addr: addr.WithZone("")}
	if addr.Zone() != "" {
		device, err := net.InterfaceByName(addr.Zone())
		if err != nil {
			return report.Address{}, fmt.Errorf("no interface %q on this host", addr.Zone())
		}
		// bind() to it binds to the device as well (inet6_bind).
		address.Ifindex, address.Interface = uint32(device.Index), device.Name
	}
	return address, isLocal(addr)
}

// isLocal asks bind() whether the address is one of this host's. It uses a UDP socket, which
// cannot block a TCP server.
func isLocal(addr netip.Addr) error {
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
	if errors.Is(err, syscall.EADDRNOTAVAIL) {
		return errors.New("not an address of this host, so bind() answers EADDRNOTAVAIL; `ip address` lists those that are")
	}
	if err != nil {
		return nil //nolint:nilerr // no IPv6, no more ports: nothing that is said about sockets
	}
	return conn.Close()
}
