package check

import (
	"io"
	"strings"
	"testing"
)

// FuzzCommandLine: as that of the exporter.
func FuzzCommandLine(f *testing.F) {
	for _, args := range []string{
		"", "--help", "4840", "4840\n8000-8010\n--json", "--address=127.0.0.1\n--address=::\n80",
		"--address=fe80::1%lo\n80", "--address=::ffff:127.0.0.1\n80", "--reuseaddr\n0", "10-9", "--address=300.0.0.1\n80",
		"http", "127.0.0.1:8080", "[::1]:http", "[fe80::1%lo]:1-2", "0.0.0.0:80\n[::]:80\n80", "53/udp", "/run/x.sock", "@app", "@/dev/zero\n80", "localhost:80", "::1:80", "[80]", "]:[",
		"--wait\n80", "--wait=2m\n80", "--wait=-1s\n80", "--wait=forever\n--restart\n--reuseport\n80", "--\n--wait", "80\n30s",
	} {
		f.Add(args)
	}
	f.Fuzz(func(t *testing.T, lines string) {
		args := strings.Split(lines, "\n")
		opts, err := parse(args, io.Discard, io.Discard)
		switch {
		case err != nil && (opts != nil || err.Error() == ""):
			t.Errorf("options %+v beside error %q", opts, err)
		case err != nil || opts == nil: // it asked for help
		case len(opts.targets)+len(opts.sockets) == 0:
			t.Error("nothing to check, and no error")
		case opts.wait.limit < 0:
			t.Errorf("waits for %v", opts.wait.limit)
		default:
			for _, at := range opts.targets {
				if at.First == 0 || at.First > at.Last {
					t.Errorf("ports %v", at.PortRange)
				}
				if a := at.Address.Addr; a.Zone() != "" {
					t.Errorf("address %v", a)
				}
				if subject(opts.targets, at.First, "") == "" {
					t.Errorf("no name for %+v", at)
				}
			}
		}
	})
}
