package codes

const seeUDP = "`ss -Huanp 'sport = :PORT'` lists the sockets and their processes."

func udp() []Entry {
	return []Entry{
		{
			UDPOwnSocket, "The program itself has a UDP socket on the port already.",
			"Remove one of the two addresses from the configuration, or set IPV6_V6ONLY on the socket that is bound to `::`.",
			"The process that failed to bind has another UDP socket that covers the address. A socket on `::` without IPV6_V6ONLY covers IPv4 too, so a second bind to `0.0.0.0` fails. Or the same address is configured twice.",
			seeUDP + " `sysctl net.ipv6.bindv6only` is the default of IPV6_V6ONLY.",
		},
		{
			UDPReuseOtherUser, "A UDP socket of another user shares the port with sockets of its own user only.",
			"Run both servers as the same user, or use another port.",
			"Both sockets set SO_REUSEPORT, but their users differ. The kernel lets UDP sockets share a port by SO_REUSEPORT only if they have the same effective user id.",
			"`ss -Huanpe 'sport = :PORT'` shows the uid of each socket (0 is not shown).",
		},
		{
			UDPReuseMissing, "Another UDP socket has the port, and only one of the two sets SO_REUSEADDR or SO_REUSEPORT.",
			"Stop the other program, or use another port or address. To share the port, both sockets must set SO_REUSEADDR, or both SO_REUSEPORT.",
			"UDP sockets share a port if all of them set SO_REUSEADDR, or all of them SO_REUSEPORT and belong to one user. Here one of the two sockets sets a flag that the other lacks. To share a port is right for multicast and for workers of one server. Two servers should not: each unicast datagram reaches only one of them.",
			seeUDP + " `sockstate_udp_listener_info` shows the flags.",
		},
		{
			UDPKernelSocket, "The kernel itself has the UDP port, for a tunnel or a network file system.",
			"Use another port, or remove what the kernel uses the port for: `ip -d link` shows the ports of VXLAN and GENEVE, `wg` those of WireGuard.",
			"VXLAN, GENEVE, WireGuard, L2TP, FOU, NFS and others receive UDP in the kernel. No process has such a socket open, so no tool can name one.",
			"`ss -Huan 'sport = :PORT'` shows a socket without a process. `ip -d link`, `wg`, `rpcinfo -p`.",
		},
		{
			UDPInUse, "Another UDP socket has the port.",
			"Stop the other program, or use another port or address.",
			"UDP sockets share a port only if all of them set SO_REUSEADDR, or all of them SO_REUSEPORT and belong to one user. Neither of the two sockets sets a flag that the other lacks.",
			seeUDP,
		},
	}
}

func udpShared() Entry {
	return Entry{
		UDPShared, "Different servers share the UDP port by SO_REUSEADDR or SO_REUSEPORT.",
		"Stop one of the servers, or give it another port or address.",
		"Both servers set the flag, so both binds work, and neither logs an error. But each unicast datagram reaches only one of them: with SO_REUSEADDR mostly the one that was bound last, with SO_REUSEPORT one by a hash of the addresses. Sockets that have joined a multicast group do not count, nor two that both may broadcast: there, each gets a copy. Nor do several processes of one unit.",
		seeUDP + " `sockstate_udp_port_shared` is 1 as long as it lasts.",
	}
}
