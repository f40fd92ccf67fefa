package metric

import (
	"strconv"
	"strings"
	"unicode"

	"sockstate_exporter/internal/sock"
)

// InterfaceLabel is the device's name. If Printable changed the name, the index follows it:
// otherwise two devices could have the same name, and their samples the same labels.
func InterfaceLabel(device string, ifindex uint32) string {
	name := sock.Printable(device)
	if strings.ContainsRune(name, unicode.ReplacementChar) {
		name += "#" + strconv.FormatUint(uint64(ifindex), 10)
	}
	return name
}
