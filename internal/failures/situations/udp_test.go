package situations

import (
	"fmt"

	"sockstate_exporter/internal/diagnosis"
	"sockstate_exporter/internal/diagnosis/codes"
)

func udpSituations() []situation {
	const anyPort = "bind=0.0.0.0:PORT,udp"
	const fails = "fail=0.0.0.0:PORT,udp,EADDRINUSE"
	const nobody = 65534
	return []situation{
		{
			code: codes.UDPInUse, name: "both lack the flags", arrange: holds(server, anyPort), bind: fails,
			holder: server, end: diagnosis.EndClosed, remedy: "Stop " + server, cure: stopHolder, again: anyPort,
		},
		{
			code: codes.UDPInUse, name: "dual stack", arrange: holds(server, "bind=[::]:PORT,udp"), bind: "fail=127.0.0.1:PORT,udp,EADDRINUSE",
			holder: server, end: diagnosis.EndClosed, remedy: "Stop " + server, cure: stopHolder, again: anyPort,
		},
		{
			code: codes.UDPInUse, name: "connected", arrange: holds(server, "talk=127.0.0.1:PORT,127.0.0.9:9"), bind: fails,
			holder: server, end: diagnosis.EndClosed, remedy: "Stop " + server, cure: stopHolder, again: anyPort,
		},
		{
			code: codes.UDPReuseMissing, name: "the old socket lacks SO_REUSEADDR", arrange: holds(server, anyPort),
			bind:   "fail=0.0.0.0:PORT,udp,reuseaddr,EADDRINUSE",
			holder: server, end: diagnosis.EndClosed, remedy: "Stop " + server, cure: stopHolder, again: anyPort,
		},
		{
			code: codes.UDPReuseMissing, name: "the new socket lacks SO_REUSEADDR", arrange: holds(server, anyPort+",reuseaddr"), bind: fails,
			holder: server, end: diagnosis.EndClosed, remedy: "both must set the flag", again: anyPort + ",reuseaddr",
		},
		{
			code: codes.UDPReuseMissing, name: "the new socket lacks SO_REUSEPORT", arrange: holds(server, anyPort+",reuseport"), bind: fails,
			holder: server, end: diagnosis.EndClosed, remedy: "both must set the flag", again: anyPort + ",reuseport",
		},
		{
			code: codes.UDPReuseOtherUser, arrange: holdsAs(nobody, server, anyPort+",reuseport"), bind: "fail=0.0.0.0:PORT,udp,reuseport,EADDRINUSE",
			holder: server, end: diagnosis.EndClosed, remedy: "Run both servers as the same user", cure: stopHolder, again: anyPort + ",reuseport",
		},
		{
			code: codes.UDPOwnSocket, name: "dual stack", before: []string{"bind=[::]:PORT,udp"}, bind: fails,
			holder: binder, end: diagnosis.EndClosed, remedy: "Set IPV6_V6ONLY on the socket", again: anyPort,
		},
		{
			code: codes.UDPOwnSocket, name: "listed twice", before: []string{anyPort}, bind: fails,
			holder: binder, end: diagnosis.EndClosed, remedy: "they are the same", again: anyPort,
		},
		{
			code: codes.UDPKernelSocket, arrange: makesTunnel, bind: fails,
			end: diagnosis.EndClosed, remedy: "VXLAN", cure: func(s *scene) { s.ns.DeleteLink(s.t, tunnel(s)) }, again: anyPort,
		},
	}
}

func tunnel(s *scene) string { return fmt.Sprint("tunnel", s.port) }

// makesTunnel has the kernel receive VXLAN on the port.
func makesTunnel(s *scene) { s.ns.AddVXLAN(s.t, tunnel(s), s.port) }
