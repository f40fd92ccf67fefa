package sources

import (
	"errors"
	"log/slog"
	"strings"

	"sockstate_exporter/internal/bpf/bindbucket"
	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/bpf/sockfiles"
	"sockstate_exporter/internal/bpf/sockflags"
	"sockstate_exporter/internal/bpf/sockwalk"
	"sockstate_exporter/internal/bpf/udphash"
	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/netns"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/netlinkdiag"
)

// works records a feature that works, and logs it. details are attributes of the log line.
func (s *Sources) works(logger *slog.Logger, feature sock.Feature, details ...any) {
	feature.Works = true
	s.Features = append(s.Features, feature)
	if feature.Mode != "" {
		details = append([]any{"mode", feature.Mode}, details...)
	}
	logger.With("feature", feature.Name).Info("feature available", details...)
}

// fails records a feature that does not work here, and logs why.
func (s *Sources) fails(logger *slog.Logger, name string, err error) {
	reason := reasonOf(err)
	s.Features = append(s.Features, sock.Feature{Name: name, Reason: reason})
	logger.Warn("feature not available", "feature", name, "reason", reason, "err", err)
}

// reasonOf returns the value of the label "reason".
func reasonOf(err error) string {
	var unavailable *sock.UnavailableError
	var lacking *netlinkdiag.ModuleError
	switch {
	case errors.As(err, &lacking):
		return "no module " + lacking.Module
	case errors.As(err, &unavailable):
		return unavailable.Reason
	case errors.Is(err, linux.ErrNeedsSysAdmin):
		return sock.ReasonCapSysAdmin
	}
	return sock.ReasonFailed
}

// missing returns the first reason why a feature works only in part, and attributes of its log
// line that say what is missing.
func missing(shortfalls []*sock.UnavailableError) (reason string, details []any) {
	if len(shortfalls) == 0 {
		return "", nil
	}
	needs := make([]string, len(shortfalls))
	for i, s := range shortfalls {
		needs[i] = s.Need
	}
	return shortfalls[0].Reason, []any{"missing", strings.Join(needs, "; ")}
}

// openNamespaces returns nil if no other namespaces are asked for, or if none can be entered. It
// looks for namespaces once, for the log. Each snapshot looks again.
func (s *Sources) openNamespaces(opts *Options, logger *slog.Logger) *netns.Discoverer {
	if len(opts.Netns) == 0 && !opts.Processes {
		return nil
	}
	discoverer, err := netns.New(netns.Config{Specs: opts.Netns, Processes: opts.Processes, ContainerOf: s.containers.OfPID})
	if err == nil {
		err = linux.MayEnterNetNS()
	}
	if err != nil {
		s.fails(logger, "namespaces", err)
		return nil // each snapshot would fail for the same reason
	}
	set := discoverer.Open()
	defer set.Close()
	s.works(logger, sock.Feature{Name: "namespaces"}, "found", len(set.Namespaces), "processes_unreadable", set.Unreadable)
	return discoverer
}

func (s *Sources) openOwners(logger *slog.Logger) {
	opts := owner.Options{Containers: s.containers.Of}
	mode := "procfs"
	files, unavailable := sockfiles.New(s.types)
	if unavailable == nil {
		s.files, opts.Searcher, mode = files, files, "bpf"
	}
	finder, err := owner.New(opts)
	if err != nil {
		s.fails(logger, "owners", err)
		return
	}
	s.owners = finder
	reason, details := missing(finder.Shortfalls())
	if reason == "" && unavailable != nil {
		reason, details = reasonOf(unavailable), []any{"missing", unavailable}
	}
	s.works(logger, sock.Feature{Name: "owners", Mode: mode, Reason: reason}, details...)
}

func (s *Sources) openTracer(opts *Options, logger *slog.Logger) {
	tracer, err := bindtrace.New(bindtrace.Options{
		Logger: logger, Types: s.types, NoConnects: !opts.Connect, MaxSlots: tracerSlots(opts),
	})
	if err != nil {
		s.fails(logger, "bind_tracing", err)
		return
	}
	s.tracer = tracer
	mode := tracer.Mode().String()
	s.works(logger, sock.Feature{Name: "bind_tracing", Mode: mode})
	s.Features = append(s.Features, traced(tracer.Mode(), isLinux(6, 11))...)
	if !opts.Connect {
		return
	}
	if err := tracer.ConnectsErr(); err != nil {
		s.fails(logger, "connect_tracing", err)
		return
	}
	s.works(logger, sock.Feature{Name: "connect_tracing", Mode: mode})
}

// traced says which calls the tracer sees that are no system calls of 64-bit programs. uring says whether
// io_uring can bind and listen (Linux 6.11).
func traced(mode bindtrace.Mode, uring bool) []sock.Feature {
	compat := sock.Feature{Name: "bind_tracing_32bit", Mode: mode.String(), Works: true}
	if mode == bindtrace.ModeTracepoint {
		compat.Works, compat.Reason = false, sock.ReasonNotTraced
	}
	if !uring {
		return []sock.Feature{compat}
	}
	return []sock.Feature{compat, {Name: "bind_tracing_io_uring", Mode: mode.String(), Reason: sock.ReasonNotTraced}}
}

// tracerSlots is how many slots the tracer needs for all ports and namespaces that can be watched.
// Each port is counted in the namespaces that are not watched, too, and each namespace has two more
// slots, also all those that are not watched together.
func tracerSlots(opts *Options) int {
	namespaces := 2
	if len(opts.Netns) > 0 || opts.Processes {
		namespaces += netns.MostNamespaces
	}
	return min(2*(opts.Watch.MostPorts()+namespaces), bindtrace.MaxSlots)
}

func (s *Sources) openFlags(logger *slog.Logger) {
	flags, err := sockflags.New(sockflags.Options{Logger: logger, Types: s.types})
	if err != nil {
		s.fails(logger, "reuse_flags", err)
		return
	}
	s.flags = flags
	if flags.Mode() == sockflags.ModeBPF {
		// Without it every read of flags walks through the table of connections.
		if s.buckets, err = bindbucket.New(s.types); err != nil {
			logger.Debug("bind buckets cannot be read", "err", err)
		}
	}
	reason, details := missing(flags.Shortfalls())
	s.works(logger, sock.Feature{Name: "reuse_flags", Mode: string(flags.Mode()), Reason: reason}, details...)
}

// openUDP opens what reads the flags of UDP sockets. Failed binds need it too, to see what was in their way.
func (s *Sources) openUDP(opts *Options, logger *slog.Logger) {
	if !opts.UDP && !opts.Bind {
		return
	}
	reader, err := udphash.New(s.types)
	if err != nil {
		s.fails(logger, "udp_flags", err)
		return
	}
	s.udp = reader
	s.works(logger, sock.Feature{Name: "udp_flags", Mode: "bpf"})
}

// openWalker opens the walk through the connections of all namespaces. It is of use only where the flags
// are read by eBPF, too: see snapshot.Config. What it needs they need, so that one line in the log is enough.
func (s *Sources) openWalker(logger *slog.Logger) {
	feature := sock.Feature{Name: "connections", Mode: "sock_diag"}
	switch {
	case s.flags == nil, s.flags.Mode() != sockflags.ModeBPF:
		s.works(logger, feature)
		return
	case s.buckets == nil:
		feature.Reason = sock.ReasonUnsupported
		s.works(logger, feature)
		return
	}
	walker, err := sockwalk.New(sockwalk.Options{Logger: logger, Types: s.types})
	if err != nil {
		feature.Reason = reasonOf(err)
		s.works(logger, feature, "missing", err)
		return
	}
	s.walker, feature.Mode = walker, "bpf"
	s.works(logger, feature)
}
