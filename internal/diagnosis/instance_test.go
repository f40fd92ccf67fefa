package diagnosis

import (
	"strings"
	"testing"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/sock"
)

// Two processes of one name are two instances of one program only where more is known.
func TestTheProgramRunsAlready(t *testing.T) {
	const already, maybe = "The program runs already: stop that instance", "it may be another instance of it."
	of := func(name, exe, unit, container string) owner.Owner {
		return owner.Owner{Process: name, Exe: exe, Unit: unit, Container: container, PID: 9, Processes: 1}
	}
	for _, tt := range []struct {
		name       string
		by, holder owner.Owner
		want       string // empty: neither
	}{
		{"one executable", of("opcua", "/usr/bin/opcua", "", ""), of("opcua-worker", "/usr/bin/opcua", "", ""), already},
		{"one path in two containers", of("opcua", "/app/server", "", "one"), of("opcua2", "/app/server", "", "two"), ""},
		{"one service", of("opcua", "", "opcua.service", ""), of("opcua", "/usr/bin/opcua", "opcua.service", ""), already},
		{"one service of an interpreter", of("python3", "", "web.service", ""), of("python3", "/usr/bin/python3.11", "web.service", ""), already},
		{"a helper of the service", of("opcua", "", "opcua.service", ""), of("sleep", "/usr/bin/sleep", "opcua.service", ""), ""},
		{"one session", of("a", "", "session-3.scope", ""), of("b", "", "session-3.scope", ""), ""},
		{"one name", of("opcua", "", "", ""), of("opcua", "/usr/bin/opcua", "", ""), maybe},
		{"one interpreter", of("python3", "/usr/bin/python3.11", "", ""), of("python3", "/usr/bin/python3.11", "", ""), ""},
		{"an interpreter that ended", of("java", "", "", ""), of("java", "", "", ""), ""},
		{"scripts with names of their own", of("web", "/usr/bin/node", "", ""), of("web", "/usr/bin/node", "", ""), ""},
		{"two programs", of("opcua", "/usr/bin/opcua", "", ""), of("nginx", "/usr/sbin/nginx", "", ""), ""},
		{"nothing is known", owner.Owner{}, owner.Owner{}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := inUse(yes, no, on(sock.StateListen, "0.0.0.0", 1, no).with(func(b *Blocker) { b.Holder, b.Held = tt.holder, true }))
			f.By, f.Process = tt.by, tt.by.Process
			d := Of(&f)
			for _, text := range []string{already, maybe} {
				if strings.Contains(d.Remedy, text) != (text == tt.want) {
					t.Errorf("remedy %q, want %q", d.Remedy, tt.want)
				}
			}
			// The advice to share the port is for instances of one program.
			f.Blockers[0].ReusePort, f.Request.ReusePort = bindrule.Yes, bindrule.No
			if shared := Of(&f); (shared.Code == codes.ReusePortMissing) != (tt.want != "") {
				t.Errorf("with SO_REUSEPORT on the listener: %s", shared.Code)
			}
		})
	}
}

// Workers may be left of a server whose main process was killed: nothing that stops the server reaches them.
func TestWorkersThatAreLeftAreNamed(t *testing.T) {
	worker := owner.Owner{Process: "nginx", Exe: "/usr/sbin/nginx", PID: 9, Processes: 1, Opener: &owner.Opener{Process: "nginx", PID: 8, Ended: true, SameProgram: true}}
	f := inUse(yes, no, on(sock.StateListen, "0.0.0.0", 1, no).with(func(b *Blocker) { b.Holder, b.Held = worker, true }))
	f.By, f.Process = owner.Owner{Process: "nginx", Exe: "/usr/sbin/nginx", PID: 10}, "nginx"
	const want = "stop that instance before you start another one. If its main process (pid 8) was killed, end what is left of it: nginx (pid 9)."
	if d := Of(&f); !strings.HasSuffix(d.Remedy, want) {
		t.Errorf("remedy %q, want %q", d.Remedy, want)
	}
}
