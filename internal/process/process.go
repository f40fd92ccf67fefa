// Package process serves the process_ metrics of the exporter itself, as client_golang's process
// collector does, for less: that one reads /proc/stat for the start time, which does not change, and
// /proc/net/netstat, for the traffic of the whole network namespace. Both become slower with each CPU
// of the host.
package process

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// A Collector collects them.
type Collector struct {
	proc  procfs.Proc
	start float64

	cpu, openFDs, maxFDs, vsize, maxVsize, rss, startTime *prometheus.Desc
}

// New makes the Collector of this process.
func New() (*Collector, error) {
	proc, err := procfs.Self()
	if err != nil {
		return nil, fmt.Errorf("find this process in /proc: %w", err)
	}
	stat, err := proc.Stat()
	if err != nil {
		return nil, fmt.Errorf("read stat of this process: %w", err)
	}
	start, err := stat.StartTime()
	if err != nil {
		return nil, fmt.Errorf("read when this process started: %w", err)
	}
	desc := func(name, help string) *prometheus.Desc { return prometheus.NewDesc(name, help, nil, nil) }
	return &Collector{
		proc:      proc,
		start:     start,
		cpu:       desc("process_cpu_seconds_total", "Total user and system CPU time spent in seconds."),
		openFDs:   desc("process_open_fds", "Number of open file descriptors."),
		maxFDs:    desc("process_max_fds", "Maximum number of open file descriptors."),
		vsize:     desc("process_virtual_memory_bytes", "Virtual memory size in bytes."),
		maxVsize:  desc("process_virtual_memory_max_bytes", "Maximum amount of virtual memory available in bytes."),
		rss:       desc("process_resident_memory_bytes", "Resident memory size in bytes."),
		startTime: desc("process_start_time_seconds", "Start time of the process since unix epoch in seconds."),
	}, nil
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.cpu, c.openFDs, c.maxFDs, c.vsize, c.maxVsize, c.rss, c.startTime} {
		descs <- d
	}
}

// Collect implements prometheus.Collector. What cannot be read is left out.
func (c *Collector) Collect(metrics chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64) {
		metrics <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
	}
	gauge(c.startTime, c.start)
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err == nil {
		spent := time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
		metrics <- prometheus.MustNewConstMetric(c.cpu, prometheus.CounterValue, spent.Seconds())
	}
	if memory, err := c.proc.Statm(); err == nil {
		gauge(c.vsize, float64(memory.SizeBytes()))
		gauge(c.rss, float64(memory.ResidentBytes()))
	}
	if open, err := c.proc.FileDescriptorsLen(); err == nil {
		gauge(c.openFDs, float64(open))
	}
	limit := func(d *prometheus.Desc, resource int) {
		var l unix.Rlimit
		if err := unix.Getrlimit(resource, &l); err == nil {
			gauge(d, float64(l.Cur))
		}
	}
	limit(c.maxFDs, unix.RLIMIT_NOFILE)
	limit(c.maxVsize, unix.RLIMIT_AS)
}
