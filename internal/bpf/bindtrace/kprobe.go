//go:build linux

package bindtrace

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// kretprobes returns the attachments of ModeKprobe. Those of connect are at the functions in which
// connect looks for a port: see bindtrace.c.
func kretprobes(connects bool) []attachment {
	all := []attachment{
		{program: bpfProgKretprobeBind, function: "__sys_bind"},
		{program: bpfProgKretprobeListen, function: "__sys_listen"},
	}
	if connects {
		all = append(all,
			attachment{program: bpfProgKretprobeTcpV4Connect, function: "tcp_v4_connect"},
			// A kernel without IPv6 does not have it.
			attachment{program: bpfProgKretprobeTcpV6Connect, function: "tcp_v6_connect", optional: true},
			attachment{program: bpfProgKretprobeInetDgramConnect, function: "inet_dgram_connect"},
			// It is there while the module sctp is loaded.
			attachment{program: bpfProgKretprobeSctpInetConnect, function: "sctp_inet_connect", optional: true},
		)
	}
	return all
}

// findKprobes returns errNoKprobes where perf_event_open cannot make kprobes. Without this check,
// cilium/ebpf would make them in tracefs. There they would outlive the process.
func findKprobes() error {
	_, err := os.Stat("/sys/bus/event_source/devices/kprobe/type")
	if errors.Is(err, os.ErrNotExist) {
		return errNoKprobes
	}
	if err != nil {
		return fmt.Errorf("look for kprobes: %w", err)
	}
	return nil
}

// attachKretprobe returns no link where an optional function does not exist.
func (a attachment) attachKretprobe(p *ebpf.Program) (link.Link, error) {
	l, err := link.Kretprobe(a.function, p, nil)
	if a.optional && errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("attach to the return of %s: %w", a.function, err)
	}
	return l, nil
}

// missedReturns returns how many returns the kprobe of a link missed: no return probe was free for
// the call. Kernels before Linux 6.7 do not say.
func missedReturns(l link.Link) uint64 {
	info, err := l.Info()
	if err != nil || info.PerfEvent() == nil {
		return 0
	}
	kprobe := info.PerfEvent().Kprobe()
	if kprobe == nil {
		return 0
	}
	return kprobe.Missed
}
