package sockflags_test

import (
	"testing"
	"time"

	"sockstate_exporter/internal/bpf/sockflags"
)

func TestNewRefusesOptionsOutOfRange(t *testing.T) {
	for _, test := range []struct {
		opts sockflags.Options
		want string
	}{
		{sockflags.Options{Mode: "ptrace"}, `reuse flags: no mode "ptrace"`},
		{sockflags.Options{MaxGroups: 3}, "reuse flags: MaxGroups 3, PidfdInterval 1m0s: out of range"},
		{sockflags.Options{MaxGroups: 65537}, "reuse flags: MaxGroups 65537, PidfdInterval 1m0s: out of range"},
		{sockflags.Options{MaxGroups: -1}, "reuse flags: MaxGroups -1, PidfdInterval 1m0s: out of range"},
		{sockflags.Options{PidfdInterval: -time.Second}, "reuse flags: MaxGroups 16384, PidfdInterval -1s: out of range"},
	} {
		if _, err := sockflags.New(test.opts); err == nil || err.Error() != test.want {
			t.Errorf("New(%+v): error %v, want %s", test.opts, err, test.want)
		}
	}
}
