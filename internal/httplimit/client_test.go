package httplimit

import "testing"

func TestAddressesThatOneClientCanChooseAreOneClient(t *testing.T) {
	for _, tt := range []struct{ remote, client string }{
		{"127.0.0.1:1", "loopback"},
		{"127.255.0.9:65535", "loopback"},
		{"[::1]:1", "loopback"},
		{"[::ffff:127.0.0.1]:1", "loopback"},
		{"192.0.2.1:1", "192.0.2.1"},
		{"192.0.2.2:1", "192.0.2.2"},
		{"[::ffff:192.0.2.1]:1", "192.0.2.1"},
		{"[2001:db8:0:1::1]:1", "2001:db8:0:1::/64"},
		{"[2001:db8:0:1:ffff::9]:1", "2001:db8:0:1::/64"},
		{"[2001:db8:0:2::1]:1", "2001:db8:0:2::/64"},
		{"[fe80::1%eth0]:1", "fe80::/64"},
		{"host(2):1024", "host(2):1024"},
	} {
		if got := clientOf(tt.remote); got != tt.client {
			t.Errorf("%s is client %q, want %q", tt.remote, got, tt.client)
		}
	}
}
