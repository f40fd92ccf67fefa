package udpcause

import (
	"errors"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/diagnosis"
	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/sock"
)

const no, yes = bindrule.No, bindrule.Yes

// socket is one on 0.0.0.0 that dnsmasq has open.
func socket(change ...func(*diagnosis.Blocker)) diagnosis.Blocker {
	b := diagnosis.Blocker{
		Socket: bindrule.Socket{
			Addr: netip.IPv4Unspecified(), State: sock.StateClose, Count: 1, UID: bindrule.UIDOf(0),
			V6Only: no, ReuseAddr: no, ReusePort: no,
		},
		Held: true, Holder: owner.Owner{Process: "dnsmasq", PID: 7, Processes: 1, Unit: "dnsmasq.service"},
	}
	for _, f := range change {
		f(&b)
	}
	return b
}

func TestCauses(t *testing.T) {
	request := func(reuseAddr, reusePort bindrule.Flag) bindrule.Request {
		return bindrule.Request{Addr: netip.IPv4Unspecified(), V6Only: no, ReuseAddr: reuseAddr, ReusePort: reusePort, UID: bindrule.UIDOf(0)}
	}
	connected := func(b *diagnosis.Blocker) { b.State, b.Count = sock.StateEstablished, 40 }
	const holds = "dnsmasq (pid 7, dnsmasq.service) has 0.0.0.0:53"
	for _, tt := range []struct {
		name     string
		blockers []diagnosis.Blocker
		request  bindrule.Request
		code     codes.Code
		sentence string
		remedy   string // a part of it
	}{
		{"no flags", []diagnosis.Blocker{socket()}, request(no, no), codes.UDPInUse, holds, "Stop dnsmasq"},
		{
			"the old socket lacks SO_REUSEADDR", []diagnosis.Blocker{socket()}, request(yes, no), codes.UDPReuseMissing,
			holds + "; the new socket sets SO_REUSEADDR, and that one does not", "both must set the flag",
		},
		{
			"the new socket lacks SO_REUSEPORT", []diagnosis.Blocker{socket(func(b *diagnosis.Blocker) { b.ReusePort = yes })}, request(no, no),
			codes.UDPReuseMissing, holds + "; that socket sets SO_REUSEPORT, and the new one does not", "both must set the flag",
		},
		{
			"another user", []diagnosis.Blocker{socket(func(b *diagnosis.Blocker) { b.ReusePort, b.UID = yes, bindrule.UIDOf(5) })}, request(no, yes),
			codes.UDPReuseOtherUser, holds + " with SO_REUSEPORT as uid 5, and the new socket belongs to uid 0", "as the same user",
		},
		{
			"its own", []diagnosis.Blocker{socket(func(b *diagnosis.Blocker) { b.Own = true })}, request(no, no),
			codes.UDPOwnSocket, "dnsmasq (pid 7, dnsmasq.service) itself has 0.0.0.0:53", "they are the same",
		},
		{
			"the kernel's", []diagnosis.Blocker{socket(func(b *diagnosis.Blocker) {
				b.Kernel, b.Held, b.Handler, b.Holder = true, false, "wg_receive [wireguard]", owner.Owner{}
			})}, request(no, no), codes.UDPKernelSocket, "the kernel itself has 0.0.0.0:53 (WireGuard)", "wg",
		},
		{
			"a QUIC server", []diagnosis.Blocker{socket(), socket(connected)}, request(no, no),
			codes.UDPInUse, holds + ", with 40 connected sockets", "Stop dnsmasq",
		},
		{
			"connected only", []diagnosis.Blocker{socket(connected)}, request(no, no), codes.UDPInUse,
			"dnsmasq (pid 7, dnsmasq.service) has 40 connected sockets on 0.0.0.0:53", "Stop dnsmasq",
		},
		{
			"a client", []diagnosis.Blocker{socket(func(b *diagnosis.Blocker) { b.Outgoing = true })}, request(no, no),
			codes.UDPInUse, holds + " (a client: the kernel chose the port for it)", "net.ipv4.ip_local_reserved_ports",
		},
		{
			"inherited", []diagnosis.Blocker{socket(func(b *diagnosis.Blocker) { b.Opener = owner.Owner{Process: "server", PID: 3, Processes: 1} })}, request(no, no),
			codes.UDPInUse, holds + ", which server (pid 3) opened, and that is gone", "Stop dnsmasq",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := diagnosis.Facts{
				Errno: syscall.EADDRINUSE, Protocol: sock.UDP, Port: 53, PortKnown: true, Request: tt.request, Process: "new",
				Blockers: tt.blockers, Seen: diagnosis.AtFailure,
			}
			d := Of(&f)
			if d.Code != tt.code || d.Sentence != tt.sentence || !strings.Contains(d.Remedy, tt.remedy) || d.Afterwards || d.End.Kind != diagnosis.EndClosed {
				t.Errorf("got %s: %s. %s", d.Code, d.Sentence, d.Remedy)
			}
		})
	}
}

func TestNothingSeen(t *testing.T) {
	for _, tt := range []struct {
		name string
		f    diagnosis.Facts
		code codes.Code
		want string
	}{
		{"not looked", diagnosis.Facts{}, codes.UDPInUse, "the exporter has not looked for it"},
		{"gone", diagnosis.Facts{Seen: diagnosis.Afterwards}, codes.UDPInUse, "was gone before the exporter could look"},
		{"an error", diagnosis.Facts{Seen: diagnosis.Afterwards, Err: errors.New("no\nmodule")}, codes.UDPInUse, "could not be seen: "},
		{"now", diagnosis.Facts{Seen: diagnosis.Now, Doubtful: []diagnosis.Blocker{socket(), socket()}}, codes.Unknown, "it depends on flags of 2 UDP sockets"},
	} {
		if d := Of(&tt.f); d.Code != tt.code || !strings.Contains(d.Sentence, tt.want) {
			t.Errorf("%s: got %s: %s", tt.name, d.Code, d.Sentence)
		}
	}
}
