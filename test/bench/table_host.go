package main

import (
	"context"
	"fmt"
	"net/netip"

	"sockstate_exporter/internal/kerneltest"
)

// A usual host: its sockets are the listeners, both ends of the connections, and those in
// TIME_WAIT.
const (
	hostListeners   = 100
	hostConnections = 250
	hostTimeWait    = 1000 - hostListeners - 2*hostConnections
)

func (b *bench) hostTables(ctx context.Context) ([]table, error) {
	var tables []table
	err := b.inNetNS(ctx, func(ns *kerneltest.NetNS) error {
		t, err := b.measureHost(ctx, ns)
		tables = append(tables, t)
		return err
	})
	if err != nil {
		return nil, err
	}
	return tables, nil
}

func (b *bench) measureHost(ctx context.Context, ns *kerneltest.NetNS) (table, error) {
	listeners, closeHost, err := openHost(ns)
	defer closeHost()
	if err != nil {
		return table{}, err
	}

	var contenders []contender
	defer func() { closeAll(contenders) }()
	const metric = "sockstate_tcp_sockets"
	everything, err := startExporter(ctx, ns, b.path(), portEverything)
	if err != nil {
		return table{}, err
	}
	contenders = append(contenders, everything.contender(nameEverything, metric, hostTimeWait, 0))
	tcpOnly, err := startExporter(ctx, ns, b.path(), portTCPOnly, onlyTCP()...)
	if err != nil {
		return table{}, err
	}
	contenders = append(contenders, tcpOnly.contender(nameTCPOnly, metric, hostTimeWait, 0))
	if b.nodeExporter != "" {
		e, err := b.startNodeExporter(ctx, ns)
		if err != nil {
			return table{}, err
		}
		contenders = append(contenders, e.contender(nameNodeExporter, "node_tcp_connection_states", hostTimeWait, 0))
	}
	if b.ss != "" {
		contenders = append(contenders, b.runSS(ns))
	}

	rounds := 20 * b.opts.rounds
	sockets := &timeWaits{ns: ns, progress: b.progress, opts: kerneltest.TimeWaitOptions{Listeners: listeners, Count: hostTimeWait}}
	results, err := measure(ctx, sockets, contenders, rounds)
	if err != nil {
		return table{}, err
	}
	rss, err := everything.peakRSS()
	if err != nil {
		return table{}, err
	}
	allocs := everything.perScrape()
	t := table{
		title: fmt.Sprintf("A usual host: %d listeners, 1,000 sockets, %d rounds", hostListeners, rounds),
		note: fmt.Sprintf("Our scrape with all collectors: %d bytes, %s allocated in %s pieces; peak RSS %s.",
			everything.body.Len(), kibibytes(allocs.bytes), thousands(int(allocs.mallocs)), mebibytes(rss)),
		head: []string{"", "median", "least", "most", "CPU"},
	}
	for _, r := range results {
		t.add(r.name, ms(r.medianWall()), ms(r.minWall()), ms(r.maxWall()), ms(r.medianCPU()))
	}
	return t, nil
}

// openHost opens the listeners and connections.
func openHost(ns *kerneltest.NetNS) (listeners []*kerneltest.Listener, closeHost func(), err error) {
	var peers []*kerneltest.Peer
	closeHost = func() {
		for _, p := range peers {
			_ = p.Close()
		}
		for _, l := range listeners {
			_ = l.Close()
		}
	}
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	for i := range hostListeners {
		l, err := ns.OpenListener(netip.AddrPortFrom(loopback, uint16(firstPort+2*i)), kerneltest.Options{})
		if err != nil {
			return listeners, closeHost, err
		}
		listeners = append(listeners, l)
		share := hostConnections*(i+1)/hostListeners - hostConnections*i/hostListeners
		more, err := l.OpenPeers(kerneltest.StateEstablished, share, netip.AddrFrom4([4]byte{127, 0, 0, 2}))
		if err != nil {
			return listeners, closeHost, err
		}
		peers = append(peers, more...)
	}
	return listeners, closeHost, nil
}
