package scenarios

import (
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/test/launch"
)

// dnsmasq serves DNS on a port.
func (h *host) dnsmasq(port string, more ...string) *program {
	return h.start("dnsmasq", append([]string{
		"--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--user=root", "--no-resolv", "--no-hosts", "--port=" + port,
	}, more...)...)
}

// resolved is systemd-resolved, with its stub on 127.0.0.53.
func (h *host) resolved() *program {
	const setup = `mkdir -p /run/systemd/resolve /run/systemd/resolved.conf.d
chown systemd-resolve:systemd-resolve /run/systemd/resolve
printf '[Resolve]\nLLMNR=no\nMulticastDNS=no\n' >/run/systemd/resolved.conf.d/test.conf`
	return h.system("systemd-resolve", setup, "systemd-resolved")
}

// Either of them may be the first. Both set SO_REUSEADDR, so it is TCP that fails.
func dnsmasqBesideStub(h *host) {
	h.needs("dnsmasq", "systemd-resolved", "ss")
	dns := func() *program { return h.dnsmasq("53", "--bind-interfaces", "--listen-address=127.0.0.53") }
	stub := h.resolved()
	h.has(stub, "53", "127.0.0.53", "systemd-resolve")
	dns().fails(h.t)
	h.wants(h.failure("dnsmasq", codes.OtherListener), "systemd-resolved", "systemd-resolved")
	h.check(1, "53/udp", "in use by systemd-resolved")
	stub.end(h.t, unix.SIGTERM)
	first := dns()
	h.has(first, "53", "127.0.0.53", "dnsmasq")

	without := h.resolved()
	h.wants(h.failure("systemd-resolved", codes.OtherListener), "dnsmasq", "dnsmasq")
	h.check(1, "53/udp", fmt.Sprintf("dnsmasq (pid %d", first.Process.Pid))
	first.end(h.t, unix.SIGTERM)
	without.end(h.t, unix.SIGTERM)
	h.has(h.resolved(), "53", "127.0.0.53", "systemd-resolve")
}

// Python's UDPServer sets no flag, and dnsmasq sets SO_REUSEADDR.
func pythonServer(h *host) {
	const python = "/usr/bin/python3"
	h.needs(python, "dnsmasq", "ss")
	server := func() *program {
		return h.start(python, "-c", "import socketserver as s; s.UDPServer(('0.0.0.0', 5140), s.BaseRequestHandler).serve_forever()")
	}
	first := server()
	h.has(first, "5140", "0.0.0.0", "python3")
	server().fails(h.t)
	h.wants(h.failure("python3", codes.UDPInUse), "python3", "Stop python3")
	h.dnsmasq("5140").fails(h.t)
	h.wants(h.failure("dnsmasq", codes.UDPReuseMissing), "python3", "Stop python3")
	h.check(1, "5140/udp", fmt.Sprintf("python3 (pid %d", first.Process.Pid))
	first.end(h.t, unix.SIGTERM)
	h.has(h.dnsmasq("5140"), "5140", "dnsmasq")
}

// mDNS responders share their port, which is meant so: each of them gets what is sent to the group. avahi-daemon
// first binds without SO_REUSEADDR, to see whether another one is there.
func multicastDNS(h *host) {
	h.needs("avahi-daemon", "ss")
	config := h.write("avahi.conf", "[server]\nenable-dbus=no\n[publish]\ndisable-publishing=yes\n")
	avahi := func() {
		p := h.system("avahi", "", "avahi-daemon", "--file="+config, "--no-drop-root", "--no-chroot", "--no-rlimits")
		h.has(p, "5353", "0.0.0.0:5353", "pid="+strconv.Itoa(p.Process.Pid)+",")
		h.has(p, "5353", "[::]:5353", "pid="+strconv.Itoa(p.Process.Pid)+",")
	}
	avahi()
	avahi()
	h.wants(h.failure("avahi-daemon", codes.UDPReuseMissing), "avahi-daemon", "")
	for _, family := range []string{"ipv4", "ipv6"} {
		h.shows("0", "sockstate_bind_failing", `port="5353"`, `protocol="udp"`, `family="`+family+`"`)
	}
	for line := range launch.Metrics(h.exporter.Get(h.t, "/metrics")).Samples("sockstate_udp_port_shared", `port="5353"`) {
		h.t.Errorf("the port of mDNS is said to be shared by mistake: %s", line)
	}
}

// Each datagram reaches one of them.
func sharedPort(h *host) {
	h.needs("chronyd", "dnsmasq", "ss")
	config := h.write("chrony.conf", "pidfile "+h.dir+"/pid\nbindcmdaddress /\ncmdport 0\nallow all\nport 123\n")
	clock := h.start("chronyd", "-d", "-x", "-F", "0", "-u", "root", "-f", config)
	h.has(clock, "123", "0.0.0.0", "chronyd")
	dns := h.dnsmasq("123")
	h.has(dns, "123", "0.0.0.0", "dnsmasq")
	h.shows("1", "sockstate_udp_port_shared", `port="123"`)
	h.check(1, "123/udp", fmt.Sprintf("dnsmasq (pid %d", dns.Process.Pid), fmt.Sprintf("chronyd (pid %d", clock.Process.Pid),
		"share UDP port 123 by SO_REUSEADDR", "each unicast datagram reaches only one of them")
	dns.end(h.t, unix.SIGTERM)
	h.shows("0", "sockstate_udp_port_shared", `port="123"`)
}

// The kernel receives VXLAN on a port. No process has it.
func kernelPort(h *host) {
	h.needs("dnsmasq", "ss")
	h.ns.AddVXLAN(h.t, "tunnel", 4789)
	h.dnsmasq("4789").fails(h.t)
	h.wants(h.failure("dnsmasq", codes.UDPKernelSocket), "", "VXLAN")
	h.check(1, "4789/udp", "the kernel itself")
	h.ns.DeleteLink(h.t, "tunnel")
	h.has(h.dnsmasq("4789"), "4789", "dnsmasq")
}
