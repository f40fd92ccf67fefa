package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/netlinkdiag"
)

// A spread is over how many ports the sockets are, and how many ports are watched in turn.
type spread struct {
	made    int
	watched []int
}

const mostPortsMade = 512

// spreads are many ports, and the few of a usual server. 4,600 ports are close to what the
// kernel takes as a filter (netlinkdiag.ErrFilterTooLarge).
func spreads() []spread {
	return []spread{
		{mostPortsMade, []int{1, 16, 128, mostPortsMade, 4600}},
		{16, []int{4, 16}},
	}
}

const firstPort = 12000

// everyOther are n ports, of which no two are adjacent: those would be one range to the
// filter.
func everyOther(n int) []uint16 {
	ports := make([]uint16, n)
	for i := range ports {
		ports[i] = uint16(firstPort + 2*i)
	}
	return ports
}

func watchSet(ports []uint16) (watch.Set, error) {
	cfg := watch.Config{MaxPorts: len(ports)}
	for _, p := range ports {
		cfg.Ports = append(cfg.Ports, watch.Spec{Range: watch.Range{First: p, Last: p}})
	}
	w, err := watch.New(cfg)
	if err != nil {
		return watch.Set{}, err
	}
	return w.Update(time.Now(), nil), nil
}

// portsTables is a table for each spread of each of the two largest numbers of sockets.
func (b *bench) portsTables(ctx context.Context) ([]table, error) {
	var tables []table
	var failed []error
	sizes := b.opts.sockets
	for _, n := range sizes[max(len(sizes)-2, 0):] {
		for _, over := range spreads() {
			err := b.inNetNS(ctx, func(ns *kerneltest.NetNS) error {
				t, err := b.measurePorts(ctx, ns, n, over)
				if err == nil {
					tables = append(tables, t)
				}
				return err
			})
			if err != nil {
				failed = append(failed, fmt.Errorf("%s sockets over %d ports: %w", thousands(n), over.made, err))
			}
		}
	}
	return tables, errors.Join(failed...)
}

func (b *bench) measurePorts(ctx context.Context, ns *kerneltest.NetNS, sockets int, over spread) (table, error) {
	const kernel, here, scrape, columns = 0, 1, 2, 3
	var contenders []contender
	defer func() { closeAll(contenders) }()

	floor, err := bare(ns, nameFloor, sockets, perFamily(netlinkdiag.FamilyIPv4, withoutBoundInactive), perFamily(netlinkdiag.FamilyIPv6, withoutBoundInactive))
	if err != nil {
		return table{}, err
	}
	contenders = append(contenders, floor)
	for i, n := range over.watched {
		ports := everyOther(n)
		set, err := watchSet(ports)
		if err != nil {
			return table{}, err
		}
		want := sockets * min(n, over.made) / over.made
		for _, inKernel := range []bool{true, false} {
			c, err := dumpPorts(ns, fmt.Sprintf("%d ports, filter in kernel: %v", n, inKernel), set, inKernel, want)
			if err != nil {
				return table{}, err
			}
			contenders = append(contenders, c)
		}
		args := append(onlyTCP(), "--no-watch.listeners", fmt.Sprintf("--watch.max-ports=%d", n))
		for _, p := range ports {
			args = append(args, fmt.Sprintf("--watch.port=%d", p))
		}
		e, err := startExporter(ctx, ns, b.path(), portFirstOfPorts+i, args...)
		if err != nil {
			return table{}, err
		}
		contenders = append(contenders, e.contender(fmt.Sprintf("%d ports, scrape", n), "sockstate_tcp_sockets", want, n))
	}

	rounds := b.rounds(sockets)
	made := &timeWaits{ns: ns, progress: b.progress, opts: kerneltest.TimeWaitOptions{Ports: everyOther(over.made), Count: sockets}}
	results, err := measure(ctx, made, contenders, rounds)
	if err != nil {
		return table{}, err
	}

	t := table{
		title: fmt.Sprintf("Watched ports, %s TIME_WAIT sockets spread over %d ports, %d rounds", thousands(sockets), over.made, rounds),
		note: fmt.Sprintf("Dumps are Conn.Dump and a count by port. The floor, which receives every socket and looks at none, took %s (median), %s (least), %s (CPU).",
			ms(results[0].medianWall()), ms(results[0].minWall()), ms(results[0].medianCPU())),
		head: []string{"watched ports", "sockets on them", "scrape", "times the floor", "dump filtered in the kernel", "filtered here",
			"kernel / here", "of the least", "CPU, kernel", "CPU, here", "kernel / here"},
	}
	for i, n := range over.watched {
		r := results[1+i*columns:][:columns]
		t.add(thousands(n), fmt.Sprintf("%.1f %%", 100*float64(min(n, over.made))/float64(over.made)),
			ms(r[scrape].medianWall()), times(r[scrape].medianWall(), results[0].medianWall()),
			ms(r[kernel].medianWall()), ms(r[here].medianWall()), times(r[kernel].medianWall(), r[here].medianWall()),
			times(r[kernel].minWall(), r[here].minWall()),
			ms(r[kernel].medianCPU()), ms(r[here].medianCPU()), times(r[kernel].medianCPU(), r[here].medianCPU()))
	}
	return t, nil
}
