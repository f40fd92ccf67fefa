package report

import (
	"net/netip"
	"strings"
	"testing"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/diagnosis"
	"sockstate_exporter/internal/failures"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/sock"
)

// conflict is a failed bind of opcua-server to port 4840.
func conflict(r bindrule.Request) failures.Conflict {
	if !r.Addr.IsValid() {
		r.Addr = any4
	}
	return failures.Conflict{
		Port: 4840, Process: "opcua-server", PID: 4711, Request: r,
		Diagnosis: diagnosis.Diagnosis{Sentence: "what", Remedy: "Do that."},
	}
}

func TestExplainNamesTheHalfThatFailed(t *testing.T) {
	c := conflict(bindrule.Request{})
	c.OtherHalf = []netip.AddrPort{netip.AddrPortFrom(any6, 4840)}
	want := "bind to 0.0.0.0:4840 by opcua-server (pid 4711) failed: what; only the IPv4 half failed, for IPv6 [::]:4840 listens. Do that."
	if got := Explain(&c); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	c = conflict(bindrule.Request{Addr: any6})
	c.OtherHalf = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:4840"), netip.MustParseAddrPort("192.0.2.1:4840")}
	want = "bind to [::]:4840 by opcua-server (pid 4711) failed: what; only the IPv6 half failed, for IPv4 127.0.0.1:4840 and 192.0.2.1:4840 listen. Do that."
	if got := Explain(&c); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestExplainNamesTheCall(t *testing.T) {
	for op, want := range map[bindtrace.Op]string{
		bindtrace.OpBind: "bind to ", bindtrace.OpListen: "listen on ", bindtrace.OpConnect: "connect to ",
	} {
		c := conflict(bindrule.Request{})
		c.Op = op
		if got := Explain(&c); !strings.HasPrefix(got, want+"0.0.0.0:4840 by ") {
			t.Errorf("got %s, want it to begin with %s", got, want)
		}
	}
}

func TestExplainSaysWhatTheProcessBelongsTo(t *testing.T) {
	for want, by := range map[string]owner.Owner{
		"(pid 4711)":                                 {},
		"(pid 4711, opcua.service)":                  {Unit: "opcua.service"},
		"in container web (pid 4711, opcua.service)": {Unit: "opcua.service", Container: "web"},
		"in pod shop/web-7d9f4-abcde (pid 4711, container nginx)": {
			Unit: "cri-containerd-" + strings.Repeat("0a", 32) + ".scope", Runtime: sock.RuntimeContainerd, Container: strings.Repeat("0a", 32),
			Named: sock.Container{Namespace: "shop", Pod: "web-7d9f4-abcde", Name: "nginx"},
		},
		`(pid 4711, "a b\n")`: {Unit: "a b\n"},
	} {
		c := conflict(bindrule.Request{})
		c.Owner = by
		if got, _, _ := strings.Cut(Explain(&c), " failed: "); got != "bind to 0.0.0.0:4840 by opcua-server "+want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// Processes choose their names, but cannot add a line or a sentence to the explanation.
func TestExplainQuotesHostileNames(t *testing.T) {
	for name, want := range map[string]string{
		"":                  "a process",
		"nginx":             "nginx",
		"kworker/0:1":       "kworker/0:1",
		"nginx: worker":     `"nginx: worker"`,
		"a\nb":              `"a\nb"`,
		"\x1b[31m":          `"\x1b[31m"`,
		"\xff\xfe":          `"\xff\xfe"`,
		"\u202egnp":         `"\u202egnp"`,
		`x" (pid 1)`:        `"x\" (pid 1)"`,
		"x (pid 1) failed:": `"x (pid 1) failed:"`,
	} {
		c := conflict(bindrule.Request{})
		c.Process = name
		if got, _, _ := strings.Cut(Explain(&c), " (pid 4711) failed"); got != "bind to 0.0.0.0:4840 by "+want {
			t.Errorf("%q: got %s, want %s", name, got, want)
		}
	}
}
