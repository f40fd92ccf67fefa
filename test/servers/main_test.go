package main

import (
	"context"
	"os"
	"strings"
	"testing"

	"sockstate_exporter/internal/kerneltest"
)

func TestMain(m *testing.M) {
	// The test binary is Go's server.
	if len(os.Args) == 3 && os.Args[1] == "-"+serveFlag {
		main()
		os.Exit(0)
	}
	kerneltest.Main(m)
}

// A server of this project, and one that every Debian has: what the program says of them is known.
func TestMeasuresFlagsAndRestarts(t *testing.T) {
	kerneltest.RequireRoot(t)
	kerneltest.New(t) // or it is skipped
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"Go net.Listen":         "| :: dual | 1 | 0 | 4096 | works |",
		"Perl IO::Socket::INET": "| 0.0.0.0 | 0 | 0 | 5 | **fails** |",
	} {
		t.Run(name, func(t *testing.T) {
			for _, s := range servers(self) {
				if s.name != name {
					continue
				}
				kerneltest.RequireCommand(t, s.command[0])
				r, err := measure(t.Context(), s)
				if err != nil {
					t.Fatal(err)
				}
				if !strings.Contains(r.String(), want) {
					t.Errorf("got %s, want %s in it", r, want)
				}
				return
			}
			t.Fatal("no such server")
		})
	}
}

func TestMeasuresWhatAServerDoesWithTheFileOfAUnixSocket(t *testing.T) {
	kerneltest.RequireRoot(t)
	kerneltest.New(t) // or it is skipped
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range chosen(unixServers(self), []string{"Go net.Listen"}) {
		r, err := measureUnix(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		if want := "| **refuses** | refuses | yes |"; !strings.Contains(r.String(), want) {
			t.Errorf("got %s, want %s in it", r, want)
		}
	}
}

func TestNamesPackages(t *testing.T) {
	var out strings.Builder
	if err := run(context.Background(), []string{"-packages"}, &out, &out); err != nil {
		t.Fatal(err)
	}
	if got := strings.Fields(out.String()); len(got) < 20 {
		t.Errorf("packages = %q", got)
	}
}
