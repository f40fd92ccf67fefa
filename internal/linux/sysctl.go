package linux

import (
	"os"
	"path/filepath"
	"strings"
)

// NetSysctl returns a setting below /proc/sys/net of the calling thread's network namespace. The path is
// in parts, because the name of a network device may contain a dot: "ipv6", "conf", "eth0.7",
// "disable_ipv6".
func NetSysctl(path ...string) (string, error) {
	value, err := os.ReadFile(filepath.Join(append([]string{"/proc/sys/net"}, path...)...))
	return strings.TrimSpace(string(value)), err
}
