package sources

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"sockstate_exporter/internal/failures/callers"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/unixfailures"
	"sockstate_exporter/internal/unixsock/unixlook"
	"sockstate_exporter/internal/unixwatch"
	"sockstate_exporter/netlinkdiag"
)

// unixOwnersWait is how long the look after a failed bind waits for owners.
const unixOwnersWait = 5 * time.Second

// openUnix opens what looks at Unix sockets: at the watched paths, and after failed binds. They share what
// they know of files.
func (s *Sources) openUnix(host *probe.Host, onFailure func(unixfailures.Failure), logger *slog.Logger) {
	cfg := unixlook.Config{AllProcesses: s.opts.Processes}
	var finder callers.Finder
	if s.owners != nil {
		cfg.Owners, finder = s.owners, s.owners
	}
	if err := unixDiag(); err != nil {
		s.fails(logger, "unix_diag", err)
	} else {
		s.works(logger, sock.Feature{Name: "unix_diag"})
	}
	if host.Others != nil {
		cfg.Others = host.Open
	}
	looker := unixlook.New(cfg)
	if len(s.opts.UnixPaths) > 0 {
		s.unixWatch = unixwatch.New(unixwatch.Config{Specs: s.opts.UnixPaths, Look: looker.Look, Retention: s.opts.Retention})
	}
	if s.tracer != nil {
		s.unixFailures = unixfailures.New(unixfailures.Config{
			Tracer: s.tracer, Owners: finder, Looker: looker.Waiting(unixOwnersWait), OwnNetns: host.OwnInode, OnFailure: onFailure,
		})
	}
}

// unixDiag says why Unix sockets cannot be listed. It asks for a state that none of them has.
func unixDiag() error {
	c, err := netlinkdiag.Dial(nil)
	if err != nil {
		return err
	}
	defer c.Close()
	for _, err := range c.DumpUnix(context.Background(), netlinkdiag.UnixRequest{States: netlinkdiag.States(netlinkdiag.StateTimeWait)}) {
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Sources) followUnix(logger *slog.Logger) {
	if s.unixFailures == nil {
		return
	}
	s.following.Go(func() {
		if err := s.unixFailures.Follow(); err != nil {
			logger.Error("details of failed binds of Unix sockets: not read any more", "err", err)
		}
	})
}

// Take takes a snapshot of everything that metrics show.
func (s *Sources) Take(ctx context.Context) snapshot.Snapshot { return s.take(ctx, s.Taker.Take) }

// TakeWithHolders is Take with what only the pages show: see [snapshot.Taker.TakeWithHolders].
func (s *Sources) TakeWithHolders(ctx context.Context) snapshot.Snapshot {
	return s.take(ctx, s.Taker.TakeWithHolders)
}

func (s *Sources) take(ctx context.Context, take func(context.Context) snapshot.Snapshot) snapshot.Snapshot {
	var paths unixwatch.State
	var looking sync.WaitGroup
	if s.unixWatch != nil {
		looking.Go(func() { paths = s.unixWatch.Take(ctx) })
	}
	snap := take(ctx)
	looking.Wait()
	if s.unixWatch != nil {
		snap.Unix.Watch = &paths
	}
	if s.unixFailures == nil {
		return snap
	}
	if failed, err := s.unixFailures.Take(); err == nil { // it fails when the exporter ends
		snap.Unix.Failures = &failed
	}
	return snap
}
