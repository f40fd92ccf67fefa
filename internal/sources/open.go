package sources

import (
	"errors"
	"log/slog"
	"strings"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/bpf/sockflags"
	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/netns"
	"sockstate_exporter/internal/owner"
)

// containerOf names a network namespace after the container that a process in it is of.
func (s *Sources) containerOf(pid int) string {
	if s.owners == nil {
		return ""
	}
	of, _ := s.owners.OfPID(pid)
	return of.ShortContainer()
}

// openNamespaces returns nil where none are asked for. It looks once, to say at the start what
// is missing; what is found, each snapshot finds anew.
func (s *Sources) openNamespaces(opts *Options, logger *slog.Logger) *netns.Discoverer {
	if len(opts.Netns) == 0 && !opts.Processes {
		return nil
	}
	feature := Feature{Name: "namespaces"}
	discoverer, err := netns.New(netns.Config{Specs: opts.Netns, Processes: opts.Processes, NameOf: s.containerOf})
	if err == nil {
		err = linux.MayEnterNetNS()
	}
	if err == nil {
		feature.Works = true
		set := discoverer.Open()
		defer set.Close()
		logger.Info("network namespaces are watched", "found", len(set.Namespaces), "processes_unreadable", set.Unreadable)
	} else {
		// Each snapshot would fail for the same reason.
		discoverer, feature.Reason = nil, "failed"
		if errors.Is(err, linux.ErrNeedsSysAdmin) {
			feature.Reason = "cap_sys_admin"
		}
		logger.Warn("network namespaces are not watched", "reason", feature.Reason, "err", err)
	}
	s.Features = append(s.Features, feature)
	return discoverer
}

func (s *Sources) openOwners(logger *slog.Logger) {
	feature := Feature{Name: "owners"}
	finder, err := owner.New(owner.Options{})
	if err != nil {
		feature.Reason = "failed"
		logger.Warn("owners of sockets are not known", "reason", feature.Reason, "err", err)
	} else {
		s.owners, feature.Works = finder, true
		var lacking []string
		for _, shortfall := range finder.Shortfalls() {
			if feature.Reason == "" {
				feature.Reason = string(shortfall.Reason)
			}
			lacking = append(lacking, shortfall.Need)
		}
		logger.Info("owners of sockets are found", "lacking", strings.Join(lacking, "; "))
	}
	s.Features = append(s.Features, feature)
}

func (s *Sources) openTracer(opts *Options, logger *slog.Logger) {
	feature := Feature{Name: "bind_tracing"}
	tracer, err := bindtrace.New(bindtrace.Options{Logger: logger, NoConnects: !opts.Connect})
	if err != nil {
		feature.Reason = "failed"
		var unavailable *bindtrace.UnavailableError
		if errors.As(err, &unavailable) {
			feature.Reason = unavailable.Reason
		}
		logger.Warn("failed binds are not counted", "reason", feature.Reason, "err", err)
	} else {
		s.tracer, feature.Works, feature.Mode = tracer, true, tracer.Mode().String()
		logger.Info("failed binds are counted", "mode", feature.Mode)
	}
	s.Features = append(s.Features, feature)
	if opts.Connect && tracer != nil {
		s.Features = append(s.Features, connectTracing(tracer, logger))
	}
}

func connectTracing(tracer *bindtrace.Tracer, logger *slog.Logger) Feature {
	feature := Feature{Name: "connect_tracing"}
	err := tracer.ConnectsErr()
	if err == nil {
		feature.Works, feature.Mode = true, tracer.Mode().String()
		return feature
	}
	feature.Reason = "failed"
	var unavailable *bindtrace.UnavailableError
	if errors.As(err, &unavailable) {
		feature.Reason = unavailable.Reason
	}
	logger.Warn("failed connects are not counted", "reason", feature.Reason, "err", err)
	return feature
}

func (s *Sources) openFlags(logger *slog.Logger) {
	feature := Feature{Name: "reuse_flags"}
	flags, err := sockflags.New(sockflags.Options{Logger: logger})
	var unavailable *sockflags.UnavailableError
	switch {
	case err != nil:
		feature.Reason = "failed"
		if errors.As(err, &unavailable) {
			feature.Reason = string(unavailable.Reason)
		}
		logger.Warn("reuse flags are not known", "reason", feature.Reason, "err", err)
	default:
		s.flags, feature.Works, feature.Mode = flags, true, string(flags.Mode())
		var lacking []string
		for _, shortfall := range flags.Shortfalls() {
			if feature.Reason == "" {
				feature.Reason = string(shortfall.Reason)
			}
			lacking = append(lacking, shortfall.Need)
		}
		logger.Info("reuse flags are read", "mode", feature.Mode, "lacking", strings.Join(lacking, "; "))
	}
	s.Features = append(s.Features, feature)
}
