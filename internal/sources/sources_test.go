package sources

import (
	"log/slog"
	"testing"

	"sockstate_exporter/internal/failures"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/watch"
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
