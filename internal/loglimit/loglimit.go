package loglimit

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// maxKinds bounds the kinds that are told apart. Users choose some of them, such as names. Beyond
// the bound, all others are one kind.
const maxKinds = 256

// LeftOut is the attribute that counts the lines of the same kind that were not logged.
const LeftOut = "not_logged"

// A Limiter bounds the lines of each kind. Its methods may be called from any goroutine.
type Limiter struct {
	burst int
	pause time.Duration

	mu    sync.Mutex
	kinds map[string]*kind
}

type kind struct {
	due     time.Time // when a burst is possible again
	leftOut uint64
}

// New returns a Limiter that lets a burst of lines of a kind pass, and one more after each pause.
func New(burst int, pause time.Duration) *Limiter {
	return &Limiter{burst: burst, pause: pause, kinds: make(map[string]*kind)}
}

// Allow says whether a line of the kind may be logged now. leftOut is how many lines of the kind
// were not logged since the last one that was.
func (l *Limiter) Allow(name string) (leftOut uint64, ok bool) { return l.allow(name, l.burst) }

// AllowRepeat is Allow for a line that says again what another one has said. It leaves half of a burst to lines
// that are new.
func (l *Limiter) AllowRepeat(name string) (leftOut uint64, ok bool) {
	return l.allow(name, max(l.burst/2, 1))
}

func (l *Limiter) allow(name string, burst int) (leftOut uint64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	k := l.kind(name, now)
	due := k.due
	if due.Before(now) {
		due = now
	}
	due = due.Add(l.pause)
	if due.Sub(now) > time.Duration(burst)*l.pause {
		k.leftOut++
		return 0, false
	}
	leftOut, k.leftOut, k.due = k.leftOut, 0, due
	return leftOut, true
}

func (l *Limiter) kind(name string, now time.Time) *kind {
	if k := l.kinds[name]; k != nil {
		return k
	}
	if len(l.kinds) >= maxKinds {
		for other, k := range l.kinds {
			if !now.Before(k.due) && k.leftOut == 0 {
				delete(l.kinds, other)
			}
		}
	}
	if len(l.kinds) >= maxKinds {
		name = ""
	}
	if l.kinds[name] == nil {
		l.kinds[name] = new(kind)
	}
	return l.kinds[name]
}

// Handler returns a Handler that bounds the lines of each message.
func (l *Limiter) Handler(next slog.Handler) slog.Handler { return &handler{next, l, false} }

// HandlerOfOne returns a Handler that bounds all lines together.
func (l *Limiter) HandlerOfOne(next slog.Handler) slog.Handler { return &handler{next, l, true} }

type handler struct {
	slog.Handler
	limiter *Limiter
	one     bool // all messages are one kind
}

// Handle implements slog.Handler.
func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	name := r.Message
	if h.one {
		name = ""
	}
	leftOut, ok := h.limiter.Allow(name)
	if !ok {
		return nil
	}
	if leftOut > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Uint64(LeftOut, leftOut))
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &handler{h.Handler.WithAttrs(attrs), h.limiter, h.one}
}

// WithGroup implements slog.Handler.
func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{h.Handler.WithGroup(name), h.limiter, h.one}
}
