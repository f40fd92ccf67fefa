// Command sockstate_exporter serves the state of a Linux host's sockets to Prometheus:
// the TCP states of every port that has a listener, TIME_WAIT first of all, and how those
// listeners keep up. See README.md.
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
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/cilium/ebpf/features"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	versioncollector "github.com/prometheus/client_golang/prometheus/collectors/version"
	"github.com/prometheus/common/promslog"
	promslogflag "github.com/prometheus/common/promslog/flag"
	"github.com/prometheus/common/version"
	"github.com/prometheus/exporter-toolkit/web"
	webflag "github.com/prometheus/exporter-toolkit/web/kingpinflag"
	libcap "kernel.org/pub/linux/libs/security/libcap/cap"

	"sockstate_exporter/collector"
	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/bpf/sockflags"
	"sockstate_exporter/internal/check"
	"sockstate_exporter/internal/netns"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/privilege"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/stack"
	"sockstate_exporter/internal/status"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/netlinkdiag"
)

const name = "sockstate_exporter"

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

// options are the command line.
type options struct {
	watch       *watch.Plan
	retention   time.Duration
	tcp         bool
	listener    bool
	reuse       bool
	restart     bool
	udp         bool
	remote      bool
	ephemeral   bool
	owners      bool
	remotePorts []watch.Range
	bind        bool
	connect     bool
	stack       bool
	netns       []netns.Spec
	processes   bool // their network namespaces too
	maxRequests int
	web         *web.FlagConfig
	log         promslog.Config
}

// run serves until ctx ends. Its error is for the command line.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	opts, err := parse(args, stdout, stderr)
	if err != nil || opts == nil {
		return err
	}
	logger := promslog.New(&opts.log)
	logger.Info("starting "+name, "version", version.Info(), "build", version.BuildContext())

	src := openSources(opts, logger)
	defer src.close()
	door, err := openDoor(ctx, opts.web) // a port below 1024 takes a privilege
	if err != nil {
		return listenError(err)
	}
	defer door.close()
	if err := dropPrivileges(opts, src, logger); err != nil {
		return err
	}
	handler, err := newHandler(opts, src, logger)
	if err != nil {
		return err
	}
	src.follow(logger)
	go warmUp(ctx, src.taker)
	server := newServer(handler, logger)
	return serve(ctx, server, func() error { return door.serve(server, opts.web, logger) }, logger)
}

// parse reads the command line; nil options mean that it asked for help or the version only.
func parse(args []string, stdout, stderr io.Writer) (*options, error) {
	opts := options{log: promslog.Config{Writer: stderr}}
	finished := false
	app := kingpin.New(name, "Prometheus exporter for socket state on Linux: TIME_WAIT and the other TCP states per port, listeners and their queues.\n\n"+
		"`sockstate_exporter check PORT...` serves nothing: it says whether a bind to the ports would work now, and what is in the way. See `sockstate_exporter check --help`.")
	app.UsageWriter(stdout).ErrorWriter(stderr).Terminate(func(int) { finished = true })
	app.HelpFlag.Short('h')
	app.Version(version.Print(name))

	var watching watch.Config
	app.Flag("watch.port", "Port to watch whether it has a listener or not, of TCP unless /udp follows, with a name if you like. Repeatable. Examples: 4840, 53/udp, 8000-8010, 4840:opcua.").
		PlaceHolder("PORT|RANGE[/PROTOCOL][:NAME]").SetValue(&value[watch.Spec]{flag: "--watch.port", parse: watch.ParseSpec, list: &watching.Ports})
	app.Flag("watch.listeners", "Watch every port that has a TCP listener.").Default("true").BoolVar(&watching.Listeners)
	app.Flag("watch.retention", "How long such a port stays watched after its listener went; longer while sockets linger on it.").Default("10m").
		SetValue(&value[time.Duration]{flag: "--watch.retention", parse: parseRetention, one: &watching.Retention})
	app.Flag("watch.exclude", "Port or range not to watch for having a listener. Repeatable. Examples: 22, 30000-32767, 5353/udp.").
		PlaceHolder("PORT|RANGE[/PROTOCOL]").SetValue(&value[watch.Exclusion]{flag: "--watch.exclude", parse: watch.ParseExclusion, list: &watching.Exclude})
	app.Flag("watch.remote-port", "Port of others to count TCP sockets to. Repeatable. Examples: 5432, 9092-9095.").
		PlaceHolder("PORT|RANGE").SetValue(&value[watch.Range]{flag: "--watch.remote-port", parse: watch.ParseRange, list: &opts.remotePorts})
	app.Flag("watch.max-ports", "Most ports to watch, of all namespaces: those of --watch.port first, then by number.").Default("512").
		SetValue(&value[int]{flag: "--watch.max-ports", parse: atLeast(1), one: &watching.MaxPorts})

	app.Flag("netns", "Network namespace to watch beside the exporter's own: a name or a glob of names in /run/netns, or a path or a glob of paths. Repeatable. Examples: blue, cni-*, /var/run/docker/netns/*.").
		PlaceHolder("NAME|GLOB|PATH").SetValue(&value[netns.Spec]{flag: "--netns", parse: netns.ParseSpec, list: &opts.netns})
	app.Flag("netns.processes", "Watch the network namespaces of all running processes, as those of containers.").Default("false").BoolVar(&opts.processes)

	app.Flag("collector.tcp", "Sockets per watched port and TCP state.").Default("true").BoolVar(&opts.tcp)
	app.Flag("collector.listener", "Listening sockets: accept queues and drops.").Default("true").BoolVar(&opts.listener)
	app.Flag("collector.reuse", "SO_REUSEADDR and SO_REUSEPORT of listeners.").Default("true").BoolVar(&opts.reuse)
	app.Flag("collector.restart", "Whether a restart of a listener could bind, and what is in the way.").Default("true").BoolVar(&opts.restart)
	app.Flag("collector.bind", "Failed bind() and listen() calls.").Default("true").BoolVar(&opts.bind)
	app.Flag("collector.connect", "Calls of connect() that found no local port, traced with those of bind().").Default("true").BoolVar(&opts.connect)
	app.Flag("collector.udp", "Sockets, receive queues and drops of watched UDP ports.").Default("true").BoolVar(&opts.udp)
	app.Flag("collector.remote", "Sockets to the ports of --watch.remote-port.").Default("true").BoolVar(&opts.remote)
	app.Flag("collector.ephemeral", "Local ports in use for the busiest destinations.").Default("true").BoolVar(&opts.ephemeral)
	app.Flag("collector.owner", "Process and systemd unit or container of listeners and of those who fail to bind.").Default("true").BoolVar(&opts.owners)
	app.Flag("collector.stack", "Counters and limits of the network namespace.").Default("true").BoolVar(&opts.stack)

	opts.web = webflag.AddFlags(app, ":10048")
	app.Flag("web.max-requests", "Most scrapes and pages served at a time; 0 for no limit.").Default("40").
		SetValue(&value[int]{flag: "--web.max-requests", parse: atLeast(0), one: &opts.maxRequests})
	promslogflag.AddFlags(app, &opts.log)

	_, err := app.Parse(args)
	switch {
	case finished:
		return nil, nil
	case err != nil && err.Error() == "unexpected check":
		return nil, errors.New("check comes first: sockstate_exporter check [flags] PORT... (try check --help)")
	case err != nil && strings.Contains(err.Error(), "collector."):
		return nil, fmt.Errorf("%w: the collectors are tcp, listener, reuse, restart, bind, connect, udp, remote, ephemeral, owner and stack", err)
	case err != nil:
		return nil, fmt.Errorf("%w (try --help)", err)
	}
	if opts.watch, err = watch.NewPlan(watching); err != nil {
		return nil, fmt.Errorf("--watch.port: %w", err)
	}
	opts.retention = watching.Retention
	if n := countPorts(opts.remotePorts); n > watching.MaxPorts {
		return nil, fmt.Errorf("--watch.remote-port: %d ports, want --watch.max-ports=%d or fewer", n, watching.MaxPorts)
	}
	if *opts.web.WebConfigFile != "" {
		if err := web.Validate(*opts.web.WebConfigFile); err != nil {
			return nil, fmt.Errorf("--web.config.file=%s: %w", *opts.web.WebConfigFile, err)
		}
	}
	return &opts, nil
}

// A value is a flag whose parser says what would be right; kingpin's own errors do not even
// name the flag. It sets one, or appends to list.
type value[T any] struct {
	flag  string
	parse func(string) (T, error)
	one   *T
	list  *[]T
}

func (v *value[T]) Set(s string) error {
	parsed, err := v.parse(s)
	if err != nil {
		return fmt.Errorf("%s=%s: %w", v.flag, s, err)
	}
	if v.list != nil {
		*v.list = append(*v.list, parsed)
		return nil
	}
	*v.one = parsed
	return nil
}

func (*value[T]) String() string       { return "" }
func (v *value[T]) IsCumulative() bool { return v.list != nil }

func countPorts(ranges []watch.Range) int {
	n := 0
	for _, r := range ranges {
		n += int(r.Last) - int(r.First) + 1
	}
	return n
}

func parseRetention(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, errors.New("want a duration of 0s or more, such as 90s or 10m")
	}
	return d, nil
}

func atLeast(least int) func(string) (int, error) {
	return func(s string) (int, error) {
		n, err := strconv.Atoi(s)
		if err != nil || n < least {
			return 0, fmt.Errorf("want a whole number, %d or more", least)
		}
		return n, nil
	}
}

// sources are what a snapshot is taken from, as far as it works on this host.
type sources struct {
	taker    *snapshot.Taker
	tracer   *bindtrace.Tracer // nil where binds cannot be traced
	flags    *sockflags.Reader // nil where flags cannot be read
	owners   *owner.Finder     // nil where owners cannot be found
	features []collector.Feature

	following sync.WaitGroup // ends with the tracer
}

// openSources opens everything that needs a privilege. A source that does not work here is no
// error: it is missing, with its reason, in the features and in one log line.
func openSources(opts *options, logger *slog.Logger) *sources {
	s := new(sources)
	cfg := snapshot.Config{
		Dial:      func() (*netlinkdiag.Conn, error) { return netlinkdiag.Dial(nil) },
		Watch:     opts.watch,
		Retention: opts.retention,
		TCP:       opts.tcp,
		Listeners: opts.listener,
		Verdicts:  opts.restart,
		UDP:       opts.udp,
		Ephemeral: opts.ephemeral,
		OwnNetns:  ownNetns(),
	}
	readStack, localPorts, tcpSockets := stackReader()
	cfg.LocalPorts, cfg.TCPSockets = localPorts, tcpSockets
	if opts.stack {
		cfg.Stack = readStack
	}
	if opts.remote && len(opts.remotePorts) > 0 {
		cfg.Remote = watch.NewPorts(opts.remotePorts)
	}
	if opts.owners {
		s.openOwners(logger)
		if s.owners != nil {
			cfg.Owners = s.owners
		}
	}
	cfg.Namespaces = s.openNamespaces(opts, logger)
	if opts.bind {
		s.openTracer(opts, logger)
		cfg.Binds = s.tracer
		cfg.OnConflict = conflictLogger(logger)
	}
	if opts.reuse {
		s.openFlags(logger)
		if s.flags != nil {
			cfg.Flags = s.flags
		}
	}
	s.taker = snapshot.New(cfg)
	return s
}

// containerOf names a network namespace after the container that a process in it is of.
func (s *sources) containerOf(pid int) string {
	if s.owners == nil {
		return ""
	}
	of, _ := s.owners.OfPID(pid)
	return of.ShortContainer()
}

// openNamespaces returns nil where none are asked for. It looks once, to say at the start what
// is missing; what is found, each snapshot finds anew.
func (s *sources) openNamespaces(opts *options, logger *slog.Logger) *netns.Discoverer {
	if len(opts.netns) == 0 && !opts.processes {
		return nil
	}
	feature := collector.Feature{Name: "namespaces"}
	discoverer, err := netns.New(netns.Config{Specs: opts.netns, Processes: opts.processes, NameOf: s.containerOf})
	if err == nil {
		err = netns.MayEnter()
	}
	if err == nil {
		feature.Works = true
		set := discoverer.Open()
		defer set.Close()
		logger.Info("network namespaces are watched", "found", len(set.Namespaces), "processes_unreadable", set.Unreadable)
	} else {
		// Each snapshot would fail for the same reason.
		discoverer, feature.Reason = nil, "failed"
		if errors.Is(err, netns.ErrPrivilege) {
			feature.Reason = "cap_sys_admin"
		}
		logger.Warn("network namespaces are not watched", "reason", feature.Reason, "err", err)
	}
	s.features = append(s.features, feature)
	return discoverer
}

func (s *sources) openOwners(logger *slog.Logger) {
	feature := collector.Feature{Name: "owners"}
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
	s.features = append(s.features, feature)
}

func (s *sources) openTracer(opts *options, logger *slog.Logger) {
	feature := collector.Feature{Name: "bind_tracing"}
	tracer, err := bindtrace.New(bindtrace.Options{Logger: logger, NoConnects: !opts.connect})
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
	s.features = append(s.features, feature)
	if opts.connect && tracer != nil {
		s.features = append(s.features, connectTracing(tracer, logger))
	}
}

func connectTracing(tracer *bindtrace.Tracer, logger *slog.Logger) collector.Feature {
	feature := collector.Feature{Name: "connect_tracing"}
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

func (s *sources) openFlags(logger *slog.Logger) {
	feature := collector.Feature{Name: "reuse_flags"}
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
	s.features = append(s.features, feature)
}

// shown are the features as pages show them.
func (s *sources) shown() []status.Feature {
	out := make([]status.Feature, len(s.features))
	for i, f := range s.features {
		out[i] = status.Feature(f)
	}
	return out
}

// follow takes the details of failed binds, and the causes of conflicts, until close.
func (s *sources) follow(logger *slog.Logger) {
	s.following.Go(func() {
		if err := s.taker.FollowBinds(); err != nil {
			logger.Error("details of failed binds are lost from now on", "err", err)
		}
	})
}

// conflictLogger writes why a bind has failed.
func conflictLogger(logger *slog.Logger) func(snapshot.Conflict) {
	return func(c snapshot.Conflict) {
		where := logger
		if c.Namespace != "" {
			where = logger.With("netns", c.Namespace)
		}
		where.Warn("address already in use", "port", c.Port, "cause", c.Cause, "failures", c.Failures, "explanation", status.Explain(&c))
	}
}

func (s *sources) close() {
	if s.tracer != nil {
		_ = s.tracer.Close()
	}
	s.following.Wait()
	_ = s.taker.Close()
	if s.flags != nil {
		_ = s.flags.Close()
	}
	if s.owners != nil {
		_ = s.owners.Close()
	}
}

// A door is where the exporter listens.
type door []net.Listener

// openDoor opens the addresses of --web.listen-address. Sockets that systemd hands in, and
// those to a hypervisor, are left to the toolkit.
func openDoor(ctx context.Context, flags *web.FlagConfig) (door, error) {
	addresses := *flags.WebListenAddresses
	isVsock := func(address string) bool { return strings.HasPrefix(address, "vsock://") }
	if flags.WebSystemdSocket != nil && *flags.WebSystemdSocket || slices.ContainsFunc(addresses, isVsock) {
		return nil, nil
	}
	var d door
	for _, address := range addresses {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
		if err != nil {
			d.close()
			return nil, err
		}
		d = append(d, l)
	}
	return d, nil
}

func (d door) serve(server *http.Server, flags *web.FlagConfig, logger *slog.Logger) error {
	if len(d) == 0 {
		return web.ListenAndServe(server, flags, logger)
	}
	return web.ServeMultiple(d, server, flags, logger)
}

func (d door) close() {
	for _, l := range d {
		_ = l.Close()
	}
}

// dropPrivileges keeps the capabilities that are needed after the start.
func dropPrivileges(opts *options, src *sources, logger *slog.Logger) error {
	var needed []libcap.Value
	if src.flags != nil && src.flags.Mode() == sockflags.ModePidfd {
		needed = append(needed, libcap.SYS_PTRACE, libcap.DAC_READ_SEARCH)
	}
	if src.owners != nil {
		needed = append(needed, libcap.SYS_PTRACE, libcap.DAC_READ_SEARCH) // /proc/PID/fd of other users
	}
	if len(opts.netns) > 0 || opts.processes {
		needed = append(needed, libcap.SYS_ADMIN) // setns
	}
	if slices.ContainsFunc(opts.netns, func(s netns.Spec) bool { return filepath.IsAbs(s.String()) }) {
		needed = append(needed, libcap.DAC_READ_SEARCH) // directories of container engines are root's alone
	}
	inProc := func(s netns.Spec) bool { return strings.HasPrefix(s.String(), "/proc/") }
	if opts.processes || slices.ContainsFunc(opts.netns, inProc) {
		needed = append(needed, libcap.SYS_PTRACE) // /proc/PID/ns of other users
	}
	const linux519 = 5<<16 | 19<<8
	if code, err := features.LinuxVersionCode(); err != nil || code < linux519 {
		needed = append(needed, libcap.BPF) // map look-ups, where unprivileged bpf(2) is disabled
	}
	slices.Sort(needed)
	left, err := privilege.Keep(slices.Compact(needed)...)
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

// ownNetns is the inode number of the exporter's network namespace, 0 where it cannot be had.
func ownNetns() uint32 {
	var st syscall.Stat_t
	if err := syscall.Stat("/proc/self/ns/net", &st); err != nil {
		return 0
	}
	return uint32(st.Ino)
}

func stackReader() (read func() (stack.Stats, error), localPorts func() (uint16, uint16, error), tcpSockets func() (uint64, error)) {
	reader, err := stack.NewReader("/proc")
	if err != nil {
		return func() (stack.Stats, error) { return stack.Stats{}, err }, nil, nil
	}
	return reader.Read, reader.LocalPorts, reader.TCPSockets
}

// newHandler is everything that is served.
func newHandler(opts *options, src *sources, logger *slog.Logger) (http.Handler, error) {
	process := prometheus.NewRegistry()
	process.MustRegister(
		versioncollector.NewCollector(name),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	pages, err := status.NewPages(status.PagesConfig{Take: src.taker.Take, Features: src.shown, Logger: logger})
	if err != nil {
		return nil, err
	}
	landing, err := web.NewLandingPage(web.LandingConfig{
		Name:        name,
		Description: "Socket state on Linux, for Prometheus",
		Version:     version.Info(),
		Profiling:   "false",
		ExtraHTML:   status.FeatureList(src.shown()),
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
	metrics := collector.New(src.taker.Take, func() []collector.Feature { return src.features }, logger).Handler(process, logger)

	snapshots := http.NewServeMux() // each takes one, or joins it
	snapshots.Handle("/metrics", metrics)
	snapshots.Handle("/ports", pages.Ports())
	snapshots.Handle("/failures", pages.Failures())
	limited := limit(opts.maxRequests, snapshots)

	mux := http.NewServeMux()
	mux.Handle("GET /{$}", landing)
	for _, path := range []string{"/metrics", "/ports", "/failures"} {
		mux.Handle("GET "+path, limited)
	}
	mux.HandleFunc("GET /-/healthy", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "healthy")
	})
	mux.HandleFunc("GET /-/ready", func(w http.ResponseWriter, _ *http.Request) {
		if !src.taker.Ready() {
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

// warmUp takes snapshots until one succeeded: ports that listen now are watched from now
// on, not from the first scrape.
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

// shutdownGrace is how long running scrapes may take once the exporter was told to end.
const shutdownGrace = 30 * time.Second

// maxConnections bounds what clients hold that connect and send nothing, or not all of a
// request. Descriptors may be had by the hundred thousand.
const maxConnections = 1000

// atMost closes connections beyond n as they come.
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
		IdleTimeout:       5 * time.Minute, // longer than scrapes are apart
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

// listenError says whom to ask about an address that is taken.
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
