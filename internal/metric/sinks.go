package metric

import "context"

// Sinks are for the answers that are rendered at a time: with many ports, each takes some
// megabytes until it is compressed. They do not limit scrapes that wait for a snapshot.
type Sinks chan *Sink

// MaxKept is the memory that a Sink keeps between scrapes.
const MaxKept = 1 << 20

// NewSinks returns n of them.
func NewSinks(n int) Sinks {
	s := make(Sinks, n)
	for range n {
		s <- NewSink()
	}
	return s
}

// Take waits for a Sink as long as the client waits.
func (s Sinks) Take(client context.Context) (*Sink, error) {
	select {
	case free := <-s:
		return free, nil
	case <-client.Done():
		return nil, context.Cause(client)
	}
}

// Free gives a Sink back.
func (s Sinks) Free(used *Sink) {
	if used.Size() > MaxKept {
		used = NewSink()
	}
	s <- used
}
