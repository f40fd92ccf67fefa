package args

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"sockstate_exporter/internal/netns"
	"sockstate_exporter/internal/report"
)

// ParseAddresses reads the values of --address.
func ParseAddresses(list []string) ([]report.Address, error) {
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
	if !isLocal(address) {
		return report.Address{}, errors.New("not an address of this host, so bind() answers EADDRNOTAVAIL; `ip address` lists those that are")
	}
	return address, nil
}

// isLocal says whether bind() takes the address as one of this host's. It does not call bind(), which
// would count as a failed bind. It is true where that cannot be found out.
func isLocal(a report.Address) bool {
	family := "ipv6"
	if a.Addr.Unmap().Is4() {
		family = "ipv4"
	}
	setting, err := os.ReadFile("/proc/sys/net/" + family + "/ip_nonlocal_bind")
	if err == nil && strings.TrimSpace(string(setting)) == "1" {
		return true
	}
	interfaces := netns.NewInterfaces(0)
	defer interfaces.Close()
	has, err := interfaces.Has(a.Addr, a.Ifindex)
	return has || err != nil
}
