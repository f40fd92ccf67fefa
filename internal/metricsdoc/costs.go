package main

import (
	"bytes"
	"fmt"
)

// A cost is the number of series of one collector. A test with real sockets in test/exporter measures
// what is in the table.
type cost struct {
	collector string
	rest      int // of a TCP port in use by one address family, with one listener
	traffic   int // of the same port after connections were in every state
	udp       int // of an idle UDP port
	netns     int // of a network namespace without ports and clients
}

func costs() []cost {
	return []cost{
		{collector: "tcp", rest: 4, traffic: 10},
		{collector: "listener", rest: 5, traffic: 5},
		{collector: "reuse", rest: 2, traffic: 2},
		{collector: "restart", rest: 3, traffic: 10},
		{collector: "bind", rest: 1, traffic: 1, udp: 1},
		{collector: "udp", udp: 4},
		{collector: "stack", netns: 6},
		{collector: "watch", rest: 1, traffic: 1, udp: 1},
	}
}

const costsHead = `
## Number of series

` + "`sockstate_exposition_series`" + ` says how many series come from each collector. The flag ` + "`--no-collector.NAME`" + ` leaves out a collector,
and ` + "`--watch.exclude`" + ` leaves out a port. This is the number of series of

- a TCP port at rest: one listener, which one address family uses;
- the same port after it had connections in every state;
- an idle UDP port, which one address family uses;
- a network namespace without its ports.

| collector | TCP port | with traffic | UDP port | network namespace |
|---|---|---|---|---|
`

const costsTail = `
These rules keep the numbers small:

- A port has series for the address families that it uses: something listened, a socket was there, or a bind failed since the port is
  watched. A port of ` + "`--watch.port`" + ` with none of them has series for both.
- Most states and details have a series from the first time that their value is above 0. The series stays, with 0, until the port is
  not watched any more. [Details](#details) says which ones, under "Absent".
- Each listening address of a port adds the series of ` + "`listener`, `reuse` and `restart`" + `. Each failed call with another error or another
  cause adds one to ` + "`bind`" + `.
- A network namespace of a container has one more series, ` + "`sockstate_netns_info`" + `.
- Each watched remote port adds 6 series to ` + "`remote`" + `, and one for each further state and address family. Clients add up to 6 to ` + "`ephemeral`" + `.

A counter that appears with its first event is 1 then, and ` + "`increase()`" + ` does not count that event. The recording rules that come with the
exporter do: their names end with ` + "`:from_zero`" + `.
`

func writeCosts(b *bytes.Buffer) {
	b.WriteString(costsHead)
	var sum cost
	for _, c := range costs() {
		sum.rest += c.rest
		sum.traffic += c.traffic
		sum.udp += c.udp
		sum.netns += c.netns
		fmt.Fprintf(b, "| `%s` | %d | %d | %d | %d |\n", c.collector, c.rest, c.traffic, c.udp, c.netns)
	}
	fmt.Fprintf(b, "| all | %d | %d | %d | %d |\n", sum.rest, sum.traffic, sum.udp, sum.netns)
	b.WriteString(costsTail)
}
