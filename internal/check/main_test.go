package check

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/mounts"
	"sockstate_exporter/internal/report"
)

// asCheck makes the test binary be the command, so that tests run it as a process.
const asCheck = "SOCKSTATE_TEST_AS_CHECK"

func TestMain(m *testing.M) {
	if os.Getenv(asCheck) != "" {
		ctx, _ := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM) // as main does
		os.Exit(Run(ctx, os.Args[1:], os.Stdout, os.Stderr))
	}
	if name := os.Getenv(asServer); name != "" {
		if err := serve(name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	mounts.PrivateTracefs()
	kerneltest.Main(m)
}

const port = 4840

var (
	any4 = netip.IPv4Unspecified()
	any6 = netip.IPv6Unspecified()
	lo4  = netip.MustParseAddr("127.0.0.1")
)

func at(addr netip.Addr) netip.AddrPort { return netip.AddrPortFrom(addr, port) }

// A result of the command.
type result struct {
	code           int
	stdout, stderr string
}

func command(t *testing.T, ns *kerneltest.NetNS, args ...string) *kerneltest.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := ns.Command(t, self, args...)
	// The race detector sleeps for a second before it lets a process end.
	cmd.Env = append(os.Environ(), asCheck+"=1", "GORACE=atexit_sleep_ms=0")
	return cmd
}

func run(t *testing.T, cmd *kerneltest.Cmd) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// check runs the command with --json, wants the exit status, and returns the report.
func check(t *testing.T, ns *kerneltest.NetNS, code int, args ...string) *report.Report {
	t.Helper()
	return reportOf(t, run(t, command(t, ns, append([]string{"--json"}, args...)...)), code)
}

func reportOf(t *testing.T, r result, code int) *report.Report {
	t.Helper()
	if r.code != code {
		t.Errorf("exit status %d, want %d\n%s%s", r.code, code, r.stdout, r.stderr)
	}
	var judged report.Report
	if err := json.Unmarshal([]byte(r.stdout), &judged); err != nil {
		t.Fatalf("%v\n%s%s", err, r.stdout, r.stderr)
	}
	return &judged
}

// asNobody makes the command run without privileges.
func asNobody(t *testing.T, cmd *kerneltest.Cmd) {
	t.Helper()
	kerneltest.RequireRoot(t)
	dir, err := os.MkdirTemp("/tmp", "sockstate-test-") //nolint:usetesting // t.TempDir is its user's own
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	// The test binary may lie where others cannot go.
	binary := filepath.Join(dir, "check")
	content, err := os.ReadFile(cmd.Path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(binary, content, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd.Path, cmd.Dir = binary, "/"
	cmd.As(65534, 65534)
}

// wantTrue binds, without and with SO_REUSEADDR, to every address of the report, and wants
// what it said.
func wantTrue(t *testing.T, ns *kerneltest.NetNS, judged *report.Report) {
	t.Helper()
	for _, p := range judged.Ports {
		for _, b := range p.Binds {
			on := bool(string(must(b.V6Only.MarshalJSON())) == "true")
			for reuseAddr, answer := range map[bool]report.Answer{false: b.Without, true: b.With} {
				opts := kerneltest.Options{ReuseAddr: reuseAddr}
				if b.Address.Is6() {
					opts.V6Only = &on
				}
				got := report.Free
				s, err := ns.OpenBound(netip.AddrPortFrom(b.Address, p.Port), opts)
				switch {
				case errors.Is(err, syscall.EADDRINUSE):
					got = report.Blocked
				case err != nil:
					t.Fatal(err)
				default:
					_ = s.Close()
				}
				if answer.Outcome != got && answer.Outcome != report.Unknown {
					t.Errorf("bind to %v port %d (v6only %v, reuseaddr %v): said %s, is %s", b.Address, p.Port, on, reuseAddr, answer.Outcome, got)
				}
			}
		}
	}
}

func must(b []byte, _ error) []byte { return b }
