package sockflags_test

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/sockflags"
)

func TestNewRefusesOptionsOutOfRange(t *testing.T) {
	for _, test := range []struct {
		opts sockflags.Options
		want string
	}{
		{sockflags.Options{Mode: "ptrace"}, `reuse flags: no mode "ptrace"`},
		{sockflags.Options{MaxGroups: 3}, "reuse flags: MaxGroups 3, PidfdInterval 1m0s: out of range"},
		{sockflags.Options{MaxGroups: -1}, "reuse flags: MaxGroups -1, PidfdInterval 1m0s: out of range"},
		{sockflags.Options{PidfdInterval: -time.Second}, "reuse flags: MaxGroups 16384, PidfdInterval -1s: out of range"},
	} {
		if _, err := sockflags.New(test.opts); err == nil || err.Error() != test.want {
			t.Errorf("New(%+v): error %v, want %s", test.opts, err, test.want)
		}
	}
}

func TestUnavailableErrorSaysWhatIsMissing(t *testing.T) {
	err := &sockflags.UnavailableError{
		Mode: sockflags.ModeBPF, Reason: sockflags.ReasonCapBPF, Need: "CAP_BPF", Err: unix.EPERM,
	}
	if got, want := err.Error(), "reuse flags by bpf: needs CAP_BPF: operation not permitted"; got != want {
		t.Errorf("error %q, want %q", got, want)
	}
	if !errors.Is(err, unix.EPERM) {
		t.Error("does not unwrap to the kernel's errno")
	}
}
