package snapshot

import (
	"context"
	"sync"
)

// A host asks the sources of all network namespaces. It is used by one flight at a time, and
// keeps what has to outlive a snapshot.
type host struct {
	cfg      Config
	own      *worker
	failures *failures
}

func newHost(cfg Config) *host {
	return &host{cfg: cfg, own: newWorker(cfg), failures: newFailures(cfg.OwnNetns)}
}

func (h *host) close() error { return h.own.close() }

// run takes the parts and publishes each as soon as it is there.
func (h *host) run(ctx context.Context, publish func(func(*Snapshot))) {
	var wg sync.WaitGroup
	defer wg.Wait()
	publishOwn := func(set func(*Namespace)) { publish(func(s *Snapshot) { set(&s.Namespace) }) }
	publishOwn(func(s *Namespace) { s.Inode = h.cfg.OwnNetns })
	wg.Go(func() { h.own.readStack(publishOwn) })

	h.own.list(ctx, publishOwn)
	binds := take(func() (Binds, error) { return h.binds() })
	publish(func(s *Snapshot) { s.Binds = binds })
	h.own.take(ctx, publishOwn)
}
