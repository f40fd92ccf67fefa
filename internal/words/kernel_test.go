package words

import "testing"

func TestKernelUse(t *testing.T) {
	for handler, want := range map[string]string{
		"":                       "",
		"vxlan_rcv":              "VXLAN",
		"vxlan_rcv [vxlan]":      "VXLAN",
		"wg_receive [wireguard]": "WireGuard",
		"esp_udp_rcv [my_esp]":   "module my_esp",
		"svc_udp_data_ready":     "",
	} {
		if got := KernelUse(handler); got != want {
			t.Errorf("%q: got %q, want %q", handler, got, want)
		}
	}
}
