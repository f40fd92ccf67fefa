package e2e

import (
	"strings"
	"testing"
	"time"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/test/launch"
)

// patience is how long a condition may take to come true, on a machine that has much else to
// do. Nothing is expected to take that long.
const patience = launch.Patience

// eventually waits until a condition holds, and fails the test with what is missing.
func eventually(t *testing.T, what string, holds func() (missing string)) {
	t.Helper()
	eventuallyWithin(t, patience, what, holds)
}

func eventuallyWithin(t *testing.T, limit time.Duration, what string, holds func() (missing string)) {
	t.Helper()
	for deadline := time.Now().Add(limit); ; time.Sleep(200 * time.Millisecond) {
		missing := holds()
		if missing == "" {
			return
		}
		if t.Failed() {
			t.FailNow()
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v: %s", what, limit, missing)
		}
	}
}

// has says whether a process wrote the line.
func has(log *kerneltest.Log, line string) bool {
	return strings.Contains("\n"+log.String(), "\n"+line+"\n")
}

// start starts a process whose output is shown when the test fails.
func start(t *testing.T, name string, cmd *kerneltest.Cmd) *kerneltest.Log {
	t.Helper()
	out := new(kerneltest.Log)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	show(t, name, out)
	return out
}

// show shows what a process wrote when the test fails.
func show(t *testing.T, name string, out *kerneltest.Log) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s wrote:\n%s", name, tail(out.String(), 4000))
		}
	})
}

func tail(s string, n int) string {
	if len(s) > n {
		return "..." + s[len(s)-n:]
	}
	return s
}
