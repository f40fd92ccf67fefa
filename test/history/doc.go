// Package history checks the answers of /metrics one after another, as a Prometheus server gets
// them. It knows what the exporter promises of its counters (docs/metrics.md):
//
//   - A counter does not fall from one scrape to the next. The samples _count, _sum and _bucket of
//     summaries and histograms are counters as well.
//   - A counter that was away and is back within five minutes is not lower. Prometheus would take it
//     for a restart of the exporter, and what it had counted before for new events. There are
//     three exceptions, all of which begin at 0: its port was not watched meanwhile; nothing listened on
//     its address for longer than --watch.retention; its network namespace was gone, and another one
//     has the name.
//   - What the counters of failed calls count in all ports and network namespaces does not fall, but
//     for what was counted twice: under port="other", and under a number since its port is watched. When
//     a port is not watched any more, its count moves to port="other" or netns="other".
//   - No series is there twice, and HELP and TYPE of a metric do not change.
//
// It needs no privileges.
package history
