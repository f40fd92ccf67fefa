package sources

import (
	"fmt"
	"log/slog"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/failures"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/netlinkdiag"
)

func TestMain(m *testing.M) { kerneltest.Main(m) }

func TestFollowWithoutATracerEndsAtOnce(t *testing.T) {
	plan, err := watch.NewPlan(watch.Config{MaxPorts: 1})
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	s := Open(&Options{Watch: plan}, func(failures.Conflict) {}, nil, logger)
	defer s.Close()
	s.Follow(logger)
	s.following.Wait() // for ever, if Follow waited for events
	if snap := s.Taker.Take(t.Context()); !snap.Binds.Off() {
		t.Errorf("the part of failed binds has error %v, want it off", snap.Binds.Err)
	}
}

func TestFeaturesSayWhichCallsAreNotTraced(t *testing.T) {
	for _, tt := range []struct {
		mode  bindtrace.Mode
		uring bool
		want  string
	}{
		{bindtrace.ModeFexit, false, "bind_tracing_32bit fexit true; "},
		{bindtrace.ModeKprobe, true, "bind_tracing_32bit kprobe true; bind_tracing_io_uring kprobe false not_traced; "},
		{bindtrace.ModeTracepoint, true, "bind_tracing_32bit tracepoint false not_traced; bind_tracing_io_uring tracepoint false not_traced; "},
	} {
		got := ""
		for _, f := range traced(tt.mode, tt.uring) {
			got += fmt.Sprintf("%s %s %v", f.Name, f.Mode, f.Works)
			if f.Reason != "" {
				got += " " + f.Reason
			}
			got += "; "
		}
		if got != tt.want {
			t.Errorf("%s, io_uring binds: %v: %q, want %q", tt.mode, tt.uring, got, tt.want)
		}
	}
}

func TestFeatureOfUnixSockets(t *testing.T) {
	plan, err := watch.NewPlan(watch.Config{MaxPorts: 1})
	if err != nil {
		t.Fatal(err)
	}
	s := Open(&Options{Watch: plan, Unix: true}, func(failures.Conflict) {}, nil, slog.New(slog.DiscardHandler))
	defer s.Close()
	want := sock.Feature{Name: "unix_diag", Works: true}
	if unixDiag() != nil { // the kernel has no such module
		want = sock.Feature{Name: "unix_diag", Reason: "no module unix_diag"}
	}
	found := false
	for _, f := range s.Features {
		found = found || f == want
	}
	if !found {
		t.Errorf("features %+v, want %+v", s.Features, want)
	}
	if got := reasonOf(fmt.Errorf("dump: %w", &netlinkdiag.ModuleError{Module: "unix_diag", Err: unix.ENOENT})); got != "no module unix_diag" {
		t.Errorf("without the module the reason is %q", got)
	}
}
