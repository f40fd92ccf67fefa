package report

import (
	"net/netip"
	"testing"
	"time"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/mounts"
)

func TestMain(m *testing.M) {
	mounts.PrivateTracefs()
	kerneltest.Main(m)
}

var (
	any4 = netip.IPv4Unspecified()
	any6 = netip.IPv6Unspecified()
	lo4  = netip.MustParseAddr("127.0.0.1")
)

const left = 42100 * time.Millisecond
