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
	} {
		f.Add(args)
	}
	f.Fuzz(func(t *testing.T, lines string) {
		args := strings.Split(lines, "\n")
		for _, arg := range args {
			if strings.HasPrefix(arg, "@") { // a file, which may be a device that never ends
				return
			}
		}
		opts, err := parse(args, io.Discard, io.Discard)
		switch {
		case err != nil && (opts != nil || err.Error() == ""):
			t.Errorf("options %+v beside error %q", opts, err)
		case err != nil || opts == nil: // it asked for help
		case len(opts.ports) == 0:
			t.Error("no port, and no error")
		default:
			for _, p := range opts.ports {
				if p.First == 0 || p.First > p.Last {
					t.Errorf("ports %v", p.PortRange)
				}
			}
			for _, a := range opts.addresses {
				if !a.Addr.IsValid() || a.Addr.Zone() != "" {
					t.Errorf("address %v", a.Addr)
				}
			}
		}
	})
}
