package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"sockstate_exporter/internal/kerneltest"
)

const (
	// timeWaitLives is TCP_TIMEWAIT_LEN, less the time that the kernel's timer may be early.
	timeWaitLives = 59 * time.Second

	// attempts at making the sockets, and at a round while all of them live.
	attempts = 3

	// runTimeout bounds one run of a contender.
	runTimeout = 30 * time.Second
)

// timeWaits keeps TIME_WAIT sockets there, in a namespace that has no others.
type timeWaits struct {
	ns       *kerneltest.NetNS
	opts     kerneltest.TimeWaitOptions
	made     time.Time // when the first of them was
	progress io.Writer
}

// ensure makes the sockets, unless all of them live for long enough yet.
func (t *timeWaits) ensure(ctx context.Context, enough time.Duration) error {
	left, err := t.ns.TimeWaitCount()
	if err != nil {
		return err
	}
	if left == t.opts.Count && time.Since(t.made)+enough < timeWaitLives {
		return nil
	}
	for attempt := 1; ; attempt++ {
		if err := t.gone(ctx); err != nil {
			return err
		}
		t.made = time.Now()
		err := kerneltest.MakeTimeWait(t.ns, t.opts)
		took := time.Since(t.made).Round(100 * time.Millisecond)
		if err == nil {
			fmt.Fprintf(t.progress, "made %s TIME_WAIT sockets in %v\n", thousands(t.opts.Count), took)
			debug.FreeOSMemory() // what making them took
			return nil
		}
		err = fmt.Errorf("after %v, of the 60s that they live: %w", took, err)
		if attempt == attempts {
			return err
		}
		fmt.Fprintf(t.progress, "trying again: %v\n", err)
	}
}

// gone waits until no socket is left: a connection between the same addresses and ports
// would take over an old one.
func (t *timeWaits) gone(ctx context.Context) error {
	for {
		left, err := t.ns.TimeWaitCount()
		if err != nil || left == 0 {
			return err
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// intact says whether none has gone yet.
func (t *timeWaits) intact() (bool, error) {
	left, err := t.ns.TimeWaitCount()
	return left == t.opts.Count, err
}

// A result is what a contender took in each round.
type result struct {
	name      string
	wall, cpu []time.Duration
}

func (r result) medianWall() time.Duration { return median(r.wall) }
func (r result) minWall() time.Duration    { return slices.Min(r.wall) }
func (r result) maxWall() time.Duration    { return slices.Max(r.wall) }
func (r result) medianCPU() time.Duration  { return median(r.cpu) }

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return (d[(len(d)-1)/2] + d[len(d)/2]) / 2
}

// measure runs every contender once a round. The first round warms up and does not count,
// nor does one during which sockets went: it is done again with new ones.
func measure(ctx context.Context, sockets *timeWaits, contenders []contender, rounds int) ([]result, error) {
	results := make([]result, len(contenders))
	for i, c := range contenders {
		results[i].name = c.name
	}
	var took time.Duration // the latest round
	for i := range 1 + rounds {
		for attempt := 1; ; attempt++ {
			if err := sockets.ensure(ctx, took+took/4); err != nil {
				return nil, err
			}
			start := time.Now()
			round, roundErr := runRound(ctx, contenders)
			took = time.Since(start)
			intact, err := sockets.intact()
			if err != nil {
				return nil, err
			}
			if !intact && attempt < attempts && ctx.Err() == nil {
				continue
			}
			if !intact {
				roundErr = errors.Join(fmt.Errorf("could not keep %s TIME_WAIT sockets for a round of %v", thousands(sockets.opts.Count), took), roundErr)
			}
			if roundErr != nil {
				return nil, roundErr
			}
			if i > 0 {
				for j, s := range round {
					results[j].wall = append(results[j].wall, s.wall)
					results[j].cpu = append(results[j].cpu, s.cpu)
				}
			}
			break
		}
	}
	return results, nil
}

type sample struct{ wall, cpu time.Duration }

func runRound(ctx context.Context, contenders []contender) ([]sample, error) {
	samples := make([]sample, len(contenders))
	for i, c := range contenders {
		var err error
		if samples[i], err = c.measure(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return samples, nil
}

func (c contender) measure(ctx context.Context) (sample, error) {
	runtime.GC() // nobody pays for the garbage of the one before
	ctx, cancel := context.WithTimeout(ctx, runTimeout)
	defer cancel()
	cpu, err := c.cpu()
	if err != nil {
		return sample{}, err
	}
	start := time.Now()
	if err := c.run(ctx); err != nil {
		return sample{}, err
	}
	wall := time.Since(start)
	cpuAfter, err := c.cpu()
	if err != nil {
		return sample{}, err
	}
	return sample{wall, cpuAfter - cpu}, c.check()
}
