package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/netlinkdiag"
)

// The port that has all the sockets.
const busyPort = 4840

const (
	nameFloor        = "receive only, IPv4 then IPv6 (the floor)"
	nameTCPOnly      = "our scrape, tcp collector"
	nameTCPAndReuse  = "our scrape, tcp and reuse collectors"
	nameEverything   = "our scrape, all collectors"
	nameNodeExporter = "node_exporter tcpstat scrape"
)

// A size is what was measured at a number of sockets.
type size struct {
	sockets int
	rounds  int
	results []result
	rss     [3]float64 // tcp collector, all collectors, node_exporter
	allocs  [2]memStats
}

func (s *size) result(name string) (result, bool) {
	for _, r := range s.results {
		if r.name == name {
			return r, true
		}
	}
	return result{}, false
}

// socketsTables is a table for each number of sockets, and two over all of them.
func (b *bench) socketsTables(ctx context.Context) ([]table, error) {
	var tables []table
	var sizes []*size
	var failed []error
	for _, n := range b.opts.sockets {
		s := &size{sockets: n, rounds: b.rounds(n)}
		err := b.inNetNS(ctx, func(ns *kerneltest.NetNS) error { return b.measureSize(ctx, ns, s) })
		if err != nil {
			failed = append(failed, fmt.Errorf("%s sockets: %w", thousands(n), err))
			continue
		}
		sizes = append(sizes, s)
		tables = append(tables, s.table())
	}
	if len(sizes) > 0 {
		tables = append(tables, growth(sizes), memory(sizes))
	}
	return tables, errors.Join(failed...)
}

func (b *bench) rounds(sockets int) int {
	if sockets < 100_000 {
		return 4 * b.opts.rounds
	}
	return b.opts.rounds
}

func (b *bench) measureSize(ctx context.Context, ns *kerneltest.NetNS, s *size) error {
	var contenders []contender
	defer func() { closeAll(contenders) }()
	add := func(c contender, err error) error {
		if err == nil {
			contenders = append(contenders, c)
		}
		return err
	}

	n := s.sockets
	const v4, v6 = netlinkdiag.FamilyIPv4, netlinkdiag.FamilyIPv6
	const theirs, ours = withoutBoundInactive, netlinkdiag.AllStates
	if err := add(bare(ns, nameFloor, n, perFamily(v4, theirs), perFamily(v6, theirs))); err != nil {
		return err
	}
	if err := add(bare(ns, "the same, bound-inactive sockets too", n, perFamily(v4, ours), perFamily(v6, ours))); err != nil {
		return err
	}
	if err := add(bare(ns, "receive only, one walk", n, bothFamilies(ours))); err != nil {
		return err
	}
	if err := add(dump(ns, n)); err != nil {
		return err
	}

	const metric = "sockstate_tcp_sockets"
	watched := "--watch.port=" + strconv.Itoa(busyPort)
	tcpOnly, err := startExporter(ctx, ns, b.path(), portTCPOnly, append(onlyTCP(), watched)...)
	if err != nil {
		return err
	}
	_ = add(tcpOnly.contender(nameTCPOnly, metric, n, 0), nil)
	withReuse, err := startExporter(ctx, ns, b.path(), portTCPAndReuse, append(onlyTCP("reuse"), watched)...)
	if err != nil {
		return err
	}
	_ = add(withReuse.contender(nameTCPAndReuse, metric, n, 0), nil)
	everything, err := startExporter(ctx, ns, b.path(), portEverything, watched)
	if err != nil {
		return err
	}
	_ = add(everything.contender(nameEverything, metric, n, 0), nil)

	if err := add(mdlayher(ns, n)); err != nil {
		return err
	}
	if err := add(socketDiagTCP(ns, n)); err != nil {
		return err
	}
	if b.ss != "" {
		_ = add(b.runSS(ns), nil)
	}
	exporters := []*exporter{tcpOnly, everything}
	if b.nodeExporter != "" {
		e, err := b.startNodeExporter(ctx, ns)
		if err != nil {
			return err
		}
		_ = add(e.contender(nameNodeExporter, "node_tcp_connection_states", n, 0), nil)
		exporters = append(exporters, e)
	}

	sockets := &timeWaits{ns: ns, progress: b.progress, opts: kerneltest.TimeWaitOptions{Ports: []uint16{busyPort}, Count: n}}
	if s.results, err = measure(ctx, sockets, contenders, s.rounds); err != nil {
		return err
	}
	for i, e := range exporters {
		if s.rss[i], err = e.peakRSS(); err != nil {
			return err
		}
	}
	s.allocs = [2]memStats{tcpOnly.perScrape(), everything.perScrape()}
	return nil
}

func (b *bench) startNodeExporter(ctx context.Context, ns *kerneltest.NetNS) (*exporter, error) {
	return startExporter(ctx, ns, b.nodeExporter, portNodeExporter, "--collector.disable-defaults", "--collector.tcpstat")
}

func (s *size) table() table {
	t := table{
		title: fmt.Sprintf("%s TIME_WAIT sockets, %d rounds", thousands(s.sockets), s.rounds),
		head:  []string{"", "median", "least", "median, times the floor", "least, times the floor", "CPU", "CPU, times the floor", "times faster than node_exporter"},
	}
	floor, _ := s.result(nameFloor)
	node, measured := s.result(nameNodeExporter)
	for _, r := range s.results {
		faster := ""
		if measured && r.name != nameNodeExporter {
			faster = times(node.medianWall(), r.medianWall())
		}
		t.add(r.name, ms(r.medianWall()), ms(r.minWall()),
			times(r.medianWall(), floor.medianWall()), times(r.minWall(), floor.minWall()),
			ms(r.medianCPU()), times(r.medianCPU(), floor.medianCPU()), faster)
	}
	return t
}

// growth is how a scrape's time grows with the sockets.
func growth(sizes []*size) table {
	t := table{
		title: "A scrape against the number of sockets",
		head: []string{"sockets", "tcp collector", "times the floor", "times faster than node_exporter",
			"all collectors", "times the floor", "times faster than node_exporter", "node_exporter"},
	}
	for _, s := range sizes {
		floor, _ := s.result(nameFloor)
		node, measured := s.result(nameNodeExporter)
		row := []string{thousands(s.sockets)}
		for _, name := range []string{nameTCPOnly, nameEverything} {
			r, _ := s.result(name)
			faster := ""
			if measured {
				faster = times(node.medianWall(), r.medianWall())
			}
			row = append(row, ms(r.medianWall()), times(r.medianWall(), floor.medianWall()), faster)
		}
		if measured {
			row = append(row, ms(node.medianWall()))
		} else {
			row = append(row, "")
		}
		t.add(row...)
	}
	return t
}

// memory is what a scrape allocates, and the most that each exporter held.
func memory(sizes []*size) table {
	t := table{
		title: "Memory of a scrape, and peak RSS after all of them",
		head: []string{"sockets", "tcp collector: allocated", "objects", "peak RSS",
			"all collectors: allocated", "objects", "peak RSS", "node_exporter: peak RSS"},
	}
	for _, s := range sizes {
		row := []string{thousands(s.sockets)}
		for i, a := range s.allocs {
			row = append(row, kibibytes(a.bytes), thousands(int(a.mallocs)), mebibytes(s.rss[i]))
		}
		if node := s.rss[len(s.allocs)]; node > 0 {
			row = append(row, mebibytes(node))
		} else {
			row = append(row, "")
		}
		t.add(row...)
	}
	return t
}
