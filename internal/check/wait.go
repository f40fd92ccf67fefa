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
func await(ctx context.Context, opts *options, src *sources, stderr io.Writer) (*judgement, error) {
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
func (w *waiter) look(ctx context.Context) (judged *judgement, last bool, err error) {
	judged, err = w.src.look(ctx, w.opts, false)
	over := !w.deadline.IsZero() && !time.Now().Before(w.deadline)
	if err != nil || judged.outcome() == report.Blocked && !over && !w.changed(judged) {
		return judged, false, err
	}
	// The first look may be out of date: the report that is written decides.
	judged, err = w.src.look(ctx, w.opts, true)
	if err != nil {
		return nil, false, err
	}
	last = over || judged.outcome() != report.Blocked
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
func (w *waiter) pause(ctx context.Context, judged *judgement, took time.Duration) error {
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
func untilChange(judged *judgement) time.Duration {
	if len(judged.blockedUnix()) > 0 {
		return lookEvery
	}
	var last time.Duration
	if udpReason(judged.ports) != "" {
		return lookEvery // no timer ends it
	}
	for i := range judged.ports.Ports {
		p := &judged.ports.Ports[i]
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
func (w *waiter) changed(judged *judgement) bool {
	return w.reasonOf(judged) != w.reason && (w.said.IsZero() || time.Since(w.said) >= sayEvery)
}

func (w *waiter) reasonOf(judged *judgement) string {
	var out strings.Builder
	for i := range judged.ports.Ports {
		p := &judged.ports.Ports[i]
		if p.Outcome != report.Blocked {
			continue
		}
		fmt.Fprintf(&out, "%d %v", p.Port, p.InUse)
		for _, b := range p.Decides().Blockers {
			fmt.Fprintf(&out, " %s %v", b.State, b.ReuseAddr)
		}
	}
	for _, p := range judged.blockedUnix() {
		fmt.Fprintf(&out, "%s %s", p.Name, p.State)
	}
	return out.String() + udpReason(judged.ports)
}

// say writes what the command waits for: the first port, and how many more there are.
func (w *waiter) say(judged *judgement) {
	w.reason, w.said = w.reasonOf(judged), time.Now()
	var lines []string
	for i := range judged.ports.Ports {
		if p := &judged.ports.Ports[i]; p.Outcome == report.Blocked {
			lines = append(lines, w.waitsFor(judged.ports, p))
		}
	}
	for i := range judged.ports.UDP {
		if p := &judged.ports.UDP[i]; p.Outcome == report.Blocked {
			h := udpHeadline(judged.ports, w.opts.targets, p)
			lines = append(lines, w.line(&h, p.InUse))
		}
	}
	more, things := max(len(lines)-1, 0), "ports"
	for _, p := range judged.blockedUnix() {
		lines = append(lines, p.Headline(plain))
		if len(lines) > 1 {
			more, things = more+1, "ports or paths"
		}
	}
	if more > 0 {
		lines[0] += fmt.Sprintf("; and %d more %s are blocked", more, things)
	}
	fmt.Fprintf(w.stderr, "waiting: %s\n", lines[0])
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
