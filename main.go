// Command sockstate_exporter serves the state of a Linux host's sockets to Prometheus: the
// TCP states of each port that has a listener, the queues of the listeners, failed binds, and
// whether a restart of a server could bind. See README.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	versioncollector "github.com/prometheus/client_golang/prometheus/collectors/version"
	"github.com/prometheus/common/promslog"
	"github.com/prometheus/common/version"
	"github.com/prometheus/exporter-toolkit/web"

	"sockstate_exporter/collector"
	"sockstate_exporter/internal/check"
	"sockstate_exporter/internal/cli"
	"sockstate_exporter/internal/failures"
	"sockstate_exporter/internal/pages"
	"sockstate_exporter/internal/privilege"
	"sockstate_exporter/internal/report"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/sources"
)

const name = cli.Name

func main() {
	if version.Version == "" {
		version.Version = "devel" // go run and go build set none
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	if len(os.Args) > 1 && os.Args[1] == "check" {
		code := check.Run(ctx, os.Args[2:], os.Stdout, os.Stderr)
		stop()
		os.Exit(code)
	}
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: error: %v\n", name, err)
		os.Exit(1)
	}
}

// run serves until ctx ends. Its error is for the command line.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	opts, err := cli.Parse(args, stdout, stderr)
	if err != nil || opts == nil {
		return err
	}
	logger := promslog.New(&opts.Log)
	logger.Info("starting "+name, "version", version.Info(), "build", version.BuildContext())

	src := sources.Open(&opts.Sources, conflictLogger(logger), logger)
	defer src.Close()
	opened, err := openListeners(ctx, opts.Web) // before dropPrivileges: ports below 1024 need one
	if err != nil {
		return listenError(err)
	}
	defer opened.close()
	if err := dropPrivileges(src, logger); err != nil {
		return err
	}
	handler, err := newHandler(opts, src, logger)
	if err != nil {
		return err
	}
	src.Follow(logger)
	go warmUp(ctx, src.Taker)
	server := newServer(handler, logger)
	return serve(ctx, server, func() error { return opened.serve(server, opts.Web, logger) }, logger)
}

// listeners are the sockets on which the exporter serves. With none, the exporter-toolkit
// opens its own.
type listeners []net.Listener

// openListeners opens the addresses of --web.listen-address. It leaves sockets that systemd
// passes, and vsock addresses, to the toolkit.
func openListeners(ctx context.Context, flags *web.FlagConfig) (listeners, error) {
	addresses := *flags.WebListenAddresses
	isVsock := func(address string) bool { return strings.HasPrefix(address, "vsock://") }
	if flags.WebSystemdSocket != nil && *flags.WebSystemdSocket || slices.ContainsFunc(addresses, isVsock) {
		return nil, nil
	}
	var opened listeners
	for _, address := range addresses {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
		if err != nil {
			opened.close()
			return nil, err
		}
		opened = append(opened, l)
	}
	return opened, nil
}

func (ls listeners) serve(server *http.Server, flags *web.FlagConfig, logger *slog.Logger) error {
	if len(ls) == 0 {
		return web.ListenAndServe(server, flags, logger)
	}
	return web.ServeMultiple(ls, server, flags, logger)
}

func (ls listeners) close() {
	for _, l := range ls {
		_ = l.Close()
	}
}

// dropPrivileges gives up all capabilities but those that the sources still need.
func dropPrivileges(src *sources.Sources, logger *slog.Logger) error {
	left, err := privilege.Keep(src.Capabilities()...)
	if err != nil {
		return err
	}
	logger.Info("capabilities that are not needed any more are given up",
		"no_new_privs", left.NoNewPrivs == nil, "bounding_set_emptied", left.Bounding == nil, "kept", strings.Join(left.Capabilities, " "))
	if left.NoNewPrivs != nil {
		logger.Warn("a program that the exporter started could get privileges; it starts none", "err", left.NoNewPrivs)
	}
	return nil
}

// conflictLogger returns a function that logs why a bind failed.
func conflictLogger(logger *slog.Logger) func(failures.Conflict) {
	return func(c failures.Conflict) {
		where := logger
		if c.Namespace != "" {
			where = logger.With("netns", c.Namespace)
		}
		where.Warn("address already in use", "port", c.Port, "cause", c.Cause, "failures", c.Failures, "explanation", report.Explain(&c))
	}
}

// newHandler serves all paths.
func newHandler(opts *cli.Options, src *sources.Sources, logger *slog.Logger) (http.Handler, error) {
	process := prometheus.NewRegistry()
	process.MustRegister(
		versioncollector.NewCollector(name),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	features := func() []sock.Feature { return src.Features }
	pageHandlers, err := pages.New(pages.Config{Take: src.Taker.Take, Features: features, Logger: logger})
	if err != nil {
		return nil, err
	}
	landing, err := web.NewLandingPage(web.LandingConfig{
		Name:        name,
		Description: "Socket state on Linux, for Prometheus",
		Version:     version.Info(),
		Profiling:   "false",
		ExtraHTML:   pages.FeatureList(src.Features),
		Links: []web.LandingLinks{
			{Address: "/ports", Text: "Ports", Description: "who listens, and what a restart would meet"},
			{Address: "/failures", Text: "Failed binds", Description: "the latest, and why"},
			{Address: "/metrics", Text: "Metrics"},
			{Address: "/-/ready", Text: "Ready", Description: "whether a first snapshot succeeded"},
			{Address: "/-/healthy", Text: "Healthy"},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("make landing page: %w", err)
	}
	metrics := collector.New(src.Taker.Take, features, logger).Handler(process, logger)

	snapshots := http.NewServeMux() // paths that need a snapshot
	snapshots.Handle("/metrics", metrics)
	snapshots.Handle("/ports", pageHandlers.Ports())
	snapshots.Handle("/failures", pageHandlers.Failures())
	limited := limit(opts.MaxRequests, snapshots)

	mux := http.NewServeMux()
	mux.Handle("GET /{$}", landing)
	for _, path := range []string{"/metrics", "/ports", "/failures"} {
		mux.Handle("GET "+path, limited)
	}
	mux.HandleFunc("GET /-/healthy", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "healthy")
	})
	mux.HandleFunc("GET /-/ready", func(w http.ResponseWriter, _ *http.Request) {
		if !src.Taker.Ready() {
			http.Error(w, "no snapshot succeeded yet", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	return mux, nil
}

// limit answers 503 to more than n requests at a time.
func limit(n int, next http.Handler) http.Handler {
	if n == 0 {
		return next
	}
	slots := make(chan struct{}, n)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
			next.ServeHTTP(w, r)
		default:
			http.Error(w, fmt.Sprintf("%d requests are being served, the limit (--web.max-requests)", n), http.StatusServiceUnavailable)
		}
	})
}

// warmUp takes snapshots until one succeeds, so that the exporter watches the ports that
// listen now before the first scrape.
func warmUp(ctx context.Context, taker *snapshot.Taker) {
	for !taker.Ready() {
		taker.Take(ctx)
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
	}
}

// shutdownGrace is how long running requests may take when the exporter stops.
const shutdownGrace = 30 * time.Second

// maxConnections bounds the memory that clients cost which connect and send no whole request.
// The limit on descriptors is not enough: it can be hundreds of thousands.
const maxConnections = 1000

// atMost closes new connections while n are open.
func atMost(n int64) func(net.Conn, http.ConnState) {
	var open atomic.Int64
	return func(conn net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			if open.Add(1) > n {
				_ = conn.Close()
			}
		case http.StateClosed, http.StateHijacked:
			open.Add(-1)
		case http.StateActive, http.StateIdle:
		}
	}
}

func newServer(handler http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ConnState:         atMost(maxConnections),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      2 * time.Minute,
		IdleTimeout:       5 * time.Minute, // longer than a usual scrape interval
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
}

// serve listens until ctx ends, and then finishes what is being served.
func serve(ctx context.Context, server *http.Server, listen func() error, logger *slog.Logger) error {
	served := make(chan error, 1)
	go func() { served <- listen() }()
	select {
	case err := <-served:
		return listenError(err)
	case <-ctx.Done():
	}
	logger.Info("stopping once running requests are finished")
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
	defer cancel()
	if err := server.Shutdown(grace); err != nil {
		return fmt.Errorf("stop after %v: %w", shutdownGrace, err)
	}
	return nil
}

// listenError says how to find what holds the address, if it is in use.
func listenError(err error) error {
	var op *net.OpError
	if !errors.Is(err, syscall.EADDRINUSE) || !errors.As(err, &op) || op.Addr == nil {
		return err
	}
	_, port, splitErr := net.SplitHostPort(op.Addr.String())
	if splitErr != nil {
		return err
	}
	return fmt.Errorf("%w: `ss -tanp 'sport = :%s'` shows what holds it; --web.listen-address takes another", err, port)
}
