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
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	versioncollector "github.com/prometheus/client_golang/prometheus/collectors/version"
	"github.com/prometheus/common/promslog"
	"github.com/prometheus/common/version"
	"github.com/prometheus/exporter-toolkit/web"
	"golang.org/x/sys/unix"

	"sockstate_exporter/collector"
	"sockstate_exporter/internal/check"
	"sockstate_exporter/internal/cli"
	"sockstate_exporter/internal/failures"
	"sockstate_exporter/internal/httplimit"
	"sockstate_exporter/internal/idlegc"
	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/loglimit"
	"sockstate_exporter/internal/pages"
	"sockstate_exporter/internal/pages/missing"
	"sockstate_exporter/internal/privilege"
	"sockstate_exporter/internal/process"
	"sockstate_exporter/internal/report"
	"sockstate_exporter/internal/report/unixreport"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/sources"
	"sockstate_exporter/internal/unixfailures"
)

const name = cli.Name

func init() { runtime.LockOSThread() } //nolint:gochecknoinits // later, main may run on another thread

func main() {
	if version.Version == "" {
		version.Version = "devel" // go run and go build set none
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	if len(os.Args) > 1 && os.Args[1] == "check" {
		runtime.UnlockOSThread()
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
	if opts.MaxProcs == 1 { // with more, the runtime's threads wait for each other with short timers
		if err := linux.RestartWithTimerSlack(timerSlack); err != nil {
			logger.Debug("scrapes take more CPU time, since the timers of the Go runtime cannot be late", "err", err)
		}
	}
	runtime.UnlockOSThread() // all that needs the main thread is done
	runtime.GOMAXPROCS(opts.MaxProcs)
	runtime.MemProfileRate = 0 // nothing serves profiles; the toolkit links what keeps them
	logger.Info("starting "+name, "version", version.Info(), "build", version.BuildContext())

	src := openSources(opts, logger)
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
	go func() {
		warmUp(ctx, src.Taker)
		linux.FreeMemory()
	}()
	server := newServer(idlegc.Handler(handler), logger)
	// The toolkit logs a web configuration that is broken with each request.
	web := slog.New(loglimit.New(httpBurst, httpPause).Handler(logger.Handler()))
	return listen(ctx, server, func() error { return opened.serve(server, opts.Web, web) }, logger)
}

// timerSlack is how late timers may be. The shortest wait that matters here is 200 ms.
const timerSlack = 5 * time.Millisecond

// openSources collects garbage often meanwhile, and begins without the pages that starting needed: what loading the
// eBPF programs takes would otherwise be the most memory that the exporter ever has.
func openSources(opts *cli.Options, logger *slog.Logger) *sources.Sources {
	defer linux.FreeMemory()
	defer debug.SetGCPercent(debug.SetGCPercent(10))
	linux.FreeMemory()
	return sources.Open(&opts.Sources, conflictLogger(logger), unixLogger(logger), logger)
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

// Bounds of what is logged. Users of the host and clients can cause such lines as often as they
// like.
const (
	conflictBurst = 16 // of one user, in one network namespace
	conflictPause = 15 * time.Second
	crowdedPause  = 10 * time.Minute // between lines that say that there is more
	httpBurst     = 16               // of one message
	httpPause     = time.Minute
)

// conflictLogger returns a function that logs why a call failed. Each user has a share of the lines, and
// repeats leave half of it to ports that are new.
func conflictLogger(logger *slog.Logger) func(failures.Conflict) {
	limit := loglimit.New(conflictBurst, conflictPause)
	crowded := loglimit.New(1, crowdedPause)
	return func(c failures.Conflict) {
		allow := limit.Allow
		if c.Repeat {
			allow = limit.AllowRepeat
		}
		leftOut, ok := allow(fmt.Sprint(c.Netns, c.Request.UID))
		if c.More || !ok { // a silent log looks as if all were well
			if _, ok := crowded.Allow(""); ok {
				logger.Warn("more calls fail than are logged: /failures shows the latest, and sockstate_bind_failures_total counts them")
			}
		}
		if !ok {
			return
		}
		where := logger
		if leftOut > 0 {
			where = logger.With(loglimit.LeftOut, leftOut)
		}
		logConflict(where, &c)
	}
}

func logConflict(logger *slog.Logger, c *failures.Conflict) {
	if c.Namespace != "" {
		logger = logger.With("netns", c.Namespace)
	}
	if c.Errno == unix.EADDRINUSE && c.Port != 0 {
		logger.Warn("address already in use", "port", c.Port, "diagnosis", c.Diagnosis.Code, "failures", c.Failures, "explanation", report.Explain(c))
		return
	}
	logger.Warn("call failed", "call", c.Op, "errno", failures.ErrnoName(c.Errno), "port", c.Port, "diagnosis", c.Diagnosis.Code,
		"failures", c.Failures, "explanation", report.Explain(c))
}

// unixLogger is conflictLogger for failed binds of Unix sockets. Some programs, as the shim of containerd,
// bind to a path to find out whether somebody is there. So these lines are no warnings.
func unixLogger(logger *slog.Logger) func(unixfailures.Failure) {
	limit := loglimit.New(conflictBurst, conflictPause)
	return func(f unixfailures.Failure) {
		of := "others" // any user can make network namespaces
		if f.Own {
			of = fmt.Sprint(f.UID)
		}
		leftOut, ok := limit.Allow(of)
		if !ok {
			return
		}
		where := logger
		if leftOut > 0 {
			where = logger.With(loglimit.LeftOut, leftOut)
		}
		where = where.With("path", f.Name.String(), "diagnosis", f.Diagnosis.Code, "failures", f.Count, "explanation", unixreport.Explain(&f))
		if f.Errno == unix.EADDRINUSE {
			where.Info("address already in use")
			return
		}
		where.Info("call failed", "call", "bind", "errno", failures.ErrnoName(f.Errno))
	}
}

// maxPages is how many of /ports and /failures are served at a time. Scrapes have a limit of their
// own, so no page takes the place of a scrape.
const maxPages = 10

// newHandler serves all paths.
func newHandler(opts *cli.Options, src *sources.Sources, logger *slog.Logger) (http.Handler, error) {
	own := prometheus.NewRegistry()
	own.MustRegister(versioncollector.NewCollector(name), collectors.NewGoCollector())
	if c, err := process.New(); err == nil {
		own.MustRegister(c)
	} else {
		logger.Warn("no process_ metrics", "err", err)
	}
	host, _ := os.Hostname() // pages do without
	pageHandlers, err := pages.New(pages.Config{Take: src.TakeWithHolders, Features: src.Features, Hint: hint(src.Features), Host: host, Version: version.Info(), Logger: logger})
	if err != nil {
		return nil, err
	}
	metrics := collector.New(src.Take, src.Features, logger).Handler(own, logger)

	scrapes := httplimit.NewSlots(opts.MaxRequests, fmt.Sprintf("%d scrapes are being served, the limit (--web.max-requests)", opts.MaxRequests))
	shown := httplimit.NewSlots(maxPages, fmt.Sprintf("%d pages are being served, the limit", maxPages))

	mux := http.NewServeMux()
	mux.Handle("GET /{$}", pageHandlers.Index())
	mux.Handle("GET /metrics", scrapes.Limit(metrics))
	mux.Handle("GET /ports", shown.Limit(httplimit.Compressed(pageHandlers.Ports())))
	mux.Handle("GET /failures", shown.Limit(httplimit.Compressed(pageHandlers.Failures())))
	mux.Handle("GET /diagnoses", shown.Limit(httplimit.Compressed(pageHandlers.Diagnoses())))
	mux.HandleFunc("GET /-/healthy", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "healthy")
	})
	mux.HandleFunc("GET /-/ready", func(w http.ResponseWriter, _ *http.Request) {
		if !src.Taker.Ready() {
			http.Error(w, "sock_diag has not answered yet", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	return mux, nil
}

// hint says what the exporter may not see.
func hint(features []sock.Feature) missing.Hint {
	program, err := os.Executable()
	if err != nil {
		program = name
	}
	return missing.NewHint(missing.Host{Features: features, Root: os.Geteuid() == 0, Ptrace: linux.HasCap(unix.CAP_SYS_PTRACE), Program: program})
}

// warmUp takes snapshots until sock_diag has answered, so that the exporter watches the ports that
// listen now before the first scrape. Where sock_diag does not answer, it tries ever more rarely.
func warmUp(ctx context.Context, taker *snapshot.Taker) {
	for wait := time.Second; !taker.Ready(); wait = min(2*wait, maxWarmUpWait) {
		taker.Take(ctx)
		if taker.Ready() {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// maxWarmUpWait is the longest time between two tries.
const maxWarmUpWait = 10 * time.Minute

// shutdownGrace is how long running requests may take when the exporter stops.
const shutdownGrace = 30 * time.Second

// maxConnections bounds the memory that clients cost which connect and send no whole request. Half
// of the descriptors that the process may have are for clients, if that is less.
const maxConnections = 1000

func connectionLimit() int {
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return maxConnections
	}
	return int(max(1, min(maxConnections, files.Cur/2)))
}

// newServer makes the server. It logs nothing above debug: what a client does is no event of this
// host, and clients must not fill the log.
func newServer(handler http.Handler, logger *slog.Logger) *http.Server {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      2 * time.Minute, // of what sets no deadline of its own
		IdleTimeout:       5 * time.Minute, // longer than a usual scrape interval
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(loglimit.New(httpBurst, httpPause).HandlerOfOne(logger.Handler()), slog.LevelDebug),
	}
	httplimit.NewConnections(connectionLimit()).Bound(server)
	return server
}

// listen serves until ctx ends, and then finishes what is being served.
func listen(ctx context.Context, server *http.Server, serve func() error, logger *slog.Logger) error {
	served := make(chan error, 1)
	go func() { served <- serve() }()
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
