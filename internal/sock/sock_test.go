package sock

import (
	"errors"
	"os"
	"strings"
	"testing"
)

func TestUnavailableErrorSaysWhatIsMissing(t *testing.T) {
	for _, test := range []struct {
		err  UnavailableError
		want string
	}{
		{
			UnavailableError{Feature: "reuse flags", Mode: "bpf", Reason: ReasonCapBPF, Need: "CAP_BPF", Err: os.ErrPermission},
			"reuse flags by bpf: needs CAP_BPF: permission denied",
		},
		{
			UnavailableError{Feature: "socket owners", Reason: ReasonCapSysPtrace, Need: "CAP_SYS_PTRACE"},
			"socket owners: needs CAP_SYS_PTRACE",
		},
		{
			UnavailableError{Feature: "bind tracing", Mode: "fexit", Reason: ReasonAttachFailed, Err: os.ErrPermission},
			"bind tracing by fexit: unavailable: permission denied",
		},
	} {
		if got := test.err.Error(); got != test.want {
			t.Errorf("error %q, want %q", got, test.want)
		}
		if got := errors.Is(&test.err, os.ErrPermission); got != (test.err.Err != nil) {
			t.Errorf("%v: unwraps to what the kernel answered: %v", &test.err, got)
		}
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"":                         "",
		"eth0.100@x":               "eth0.100@x",
		"wlan ø":                   "wlan ø",
		"a\xffb":                   "a\uFFFDb",
		"\xe2\x82":                 "\uFFFD\uFFFD",
		"a\nb\tc\x00d\x7f":         "a\uFFFDb\uFFFDc\uFFFDd\uFFFD",
		"\u202egnirts":             "\uFFFDgnirts",
		"\u2028":                   "\uFFFD",
		`"q"\`:                     `"q"\`,
		strings.Repeat("é", 64):    strings.Repeat("é", 64),
		strings.Repeat("é", 65):    strings.Repeat("é", 64),
		strings.Repeat("\xff", 70): strings.Repeat("\uFFFD", 64),
	} {
		if got := Printable(in); got != want {
			t.Errorf("Printable(%q) is %q, want %q", in, got, want)
		}
	}
}
