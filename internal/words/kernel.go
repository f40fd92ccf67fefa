package words

import "strings"

// KernelUse says what the kernel uses a UDP socket for, by the function that gets its packets, with its module:
// "wg_receive [wireguard]". It is empty where that is not known.
func KernelUse(handler string) string {
	function, module, _ := strings.Cut(handler, " ")
	for prefix, use := range map[string]string{
		"vxlan_": "VXLAN", "wg_": "WireGuard", "geneve_": "GENEVE", "l2tp_": "L2TP", "gtp_": "GTP",
		"fou_": "FOU", "gue_": "GUE", "rxrpc_": "RxRPC", "tipc_": "TIPC", "bareudp_": "bareudp",
	} {
		if strings.HasPrefix(function, prefix) {
			return use
		}
	}
	if module = strings.Trim(module, "[]"); module != "" {
		return "module " + Name(module)
	}
	return ""
}
