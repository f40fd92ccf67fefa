package check

import (
	"context"
	"fmt"

	"sockstate_exporter/internal/netns"
	"sockstate_exporter/internal/report"
	"sockstate_exporter/internal/report/unixreport"
	"sockstate_exporter/internal/unixsock/unixlook"
)

// A judgement is the answer about all that was asked for.
type judgement struct {
	ports *report.Report // with no port where none was asked for
	unix  []unixreport.Place
}

// outcome is the worst of all.
func (j *judgement) outcome() report.Outcome {
	worst := j.ports.Outcome
	for i := range j.unix {
		worst = report.Worse(worst, j.unix[i].Outcome)
	}
	return worst
}

// blockedUnix are the Unix sockets that a wait is for.
func (j *judgement) blockedUnix() []*unixreport.Place {
	var out []*unixreport.Place
	for i := range j.unix {
		if j.unix[i].Outcome == report.Blocked {
			out = append(out, &j.unix[i])
		}
	}
	return out
}

// noPorts is the report where only Unix sockets were asked for.
func noPorts(opts *options) *report.Report {
	question := report.NewBind
	if opts.restart {
		question = report.Restart
	}
	return &report.Report{
		Version: report.Version, Question: question, Outcome: report.Free,
		ReuseAddr: opts.reuseAddr, ReusePort: opts.reusePort, Ports: []report.PortReport{}, Unseen: []string{},
	}
}

// lookAtUnix looks at the Unix sockets, in all network namespaces that it may enter: a path belongs to
// all of them.
func (src *sources) lookAtUnix(ctx context.Context, opts *options, owners bool) ([]unixreport.Place, error) {
	if len(opts.sockets) == 0 {
		return nil, nil
	}
	cfg := unixlook.Config{Connect: true, AllProcesses: true}
	if owners && src.owners != nil {
		cfg.Owners = src.owners
	}
	others, err := netns.New(netns.Config{Processes: true})
	if err != nil {
		return nil, fmt.Errorf("look for network namespaces: %w", err)
	}
	cfg.Others = others.Open
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("no answer from the kernel within %v", patience))
	defer cancel()
	queries := make([]unixlook.Query, len(opts.sockets))
	for i, name := range opts.sockets {
		queries[i].Name = name
	}
	verdicts, err := unixlook.New(cfg).Look(ctx, queries)
	if err != nil && ctx.Err() != nil {
		return nil, fmt.Errorf("look at Unix sockets: %w", err)
	}
	out := make([]unixreport.Place, len(verdicts))
	for i := range verdicts {
		out[i] = unixreport.New(&verdicts[i])
	}
	return out, nil
}

// place writes a Unix socket, and says whether it wrote more than a line.
func (t *text) place(p *unixreport.Place) bool {
	t.line("%s", p.Headline(t.paint))
	details := p.Details()
	for _, line := range details {
		t.line("  %s", line)
	}
	return len(details) > 0
}
