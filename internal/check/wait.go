package check

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"sockstate_exporter/internal/report"
)

const (
	// How often a waiting command looks. It looks earlier if a timer of the kernel ends earlier.
	lookEvery = time.Second
	lookSoon  = 20 * time.Millisecond

	// A waiting command rests for this many times the duration of a look, up to lookRarely. So it
	// takes a fifth of a CPU at most where a look takes long.
	restFactor = 4
	lookRarely = 10 * time.Second

	// sayEvery bounds the lines about what a command waits for.
	sayEvery = 5 * time.Second
)

// A waiter looks until what is asked would work.
type waiter struct {
	opts   *options
	src    *sources
	stderr io.Writer

	deadline time.Time // zero: none
	reason   string    // what was said last
	said     time.Time
}

// await looks until the outcome is no longer Blocked, or the time is over. It returns the last report.
func await(ctx context.Context, opts *options, src *sources, stderr io.Writer) (*report.Report, error) {
	w := &waiter{opts: opts, src: src, stderr: stderr}
	if !opts.wait.forever {
		w.deadline = time.Now().Add(opts.wait.limit)
	}
	for {
		began := time.Now()
		judged, last, err := w.look(ctx)
		if err != nil || last {
			return judged, interrupted(ctx, err)
		}
		if err := w.pause(ctx, judged, time.Since(began)); err != nil {
			return nil, err
		}
	}
}

// look looks once, and for owners only if their names are going to be written. last says that there
// is nothing to wait for any more.
func (w *waiter) look(ctx context.Context) (judged *report.Report, last bool, err error) {
	judged, err = w.src.look(ctx, w.opts, false)
	over := !w.deadline.IsZero() && !time.Now().Before(w.deadline)
	if err != nil || judged.Outcome == report.Blocked && !over && !w.changed(judged) {
		return judged, false, err
	}
	// The first look may be out of date: the report that is written decides.
	judged, err = w.src.look(ctx, w.opts, true)
	if err != nil {
		return nil, false, err
	}
	last = over || judged.Outcome != report.Blocked
	if !last {
		w.say(judged)
	}
	return judged, last, nil
}

func interrupted(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("stopped while it waited: %w", context.Cause(ctx))
	}
	return err
}

// pause waits until the next look.
func (w *waiter) pause(ctx context.Context, judged *report.Report, took time.Duration) error {
	pause := max(min(untilChange(judged), lookEvery), lookSoon, min(restFactor*took, lookRarely))
	if !w.deadline.IsZero() {
		pause = max(min(pause, time.Until(w.deadline)), 0)
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return interrupted(ctx, ctx.Err())
	}
}

// untilChange is the time until the last socket is gone by a timer of the kernel, if only such
// sockets block.
func untilChange(judged *report.Report) time.Duration {
	var last time.Duration
	if udpReason(judged) != "" {
		return lookEvery // no timer ends it
	}
	for i := range judged.Ports {
		p := &judged.Ports[i]
		if p.Outcome != report.Blocked {
			continue
		}
		left := p.Decides().BlockedSeconds
		if left == nil {
			return lookEvery
		}
		last = max(last, time.Duration(*left*float64(time.Second)))
	}
	return last
}

// changed says whether there is something new to say, and whether it is time to say it. Numbers of
// sockets and seconds change all the time, and are not new.
func (w *waiter) changed(judged *report.Report) bool {
	return w.reasonOf(judged) != w.reason && (w.said.IsZero() || time.Since(w.said) >= sayEvery)
}

func (w *waiter) reasonOf(judged *report.Report) string {
	var out strings.Builder
	for i := range judged.Ports {
		p := &judged.Ports[i]
		if p.Outcome != report.Blocked {
			continue
		}
		fmt.Fprintf(&out, "%d %v", p.Port, p.InUse)
		for _, b := range p.Decides().Blockers {
			fmt.Fprintf(&out, " %s %v", b.State, b.ReuseAddr)
		}
	}
	return out.String() + udpReason(judged)
}

// say writes what the command waits for: the first port, and how many more there are.
func (w *waiter) say(judged *report.Report) {
	w.reason, w.said = w.reasonOf(judged), time.Now()
	var first string
	more := 0
	for i := range judged.Ports {
		p := &judged.Ports[i]
		switch {
		case p.Outcome != report.Blocked:
		case first == "":
			first = w.waitsFor(judged, p)
		default:
			more++
		}
	}
	for i := range judged.UDP {
		p := &judged.UDP[i]
		switch {
		case p.Outcome != report.Blocked:
		case first == "":
			h := udpHeadline(judged, w.opts.targets, p)
			first = w.line(&h, p.InUse)
		default:
			more++
		}
	}
	if more > 0 {
		first += fmt.Sprintf("; and %d more ports are blocked", more)
	}
	fmt.Fprintf(w.stderr, "waiting: %s\n", first)
}

// waitsFor is the first line about a port. A new bind waits until the listener is closed, whether that
// could restart or not.
func (w *waiter) waitsFor(judged *report.Report, p *report.PortReport) string {
	h := headline(judged, w.opts.targets, p)
	return w.line(&h, p.InUse)
}

func (w *waiter) line(h *report.Headline, inUse bool) string {
	if inUse && !w.opts.restart {
		return h.Occupied()
	}
	return h.String()
}
