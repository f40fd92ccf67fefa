package cli

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/promslog"
	promslogflag "github.com/prometheus/common/promslog/flag"
	"github.com/prometheus/common/version"
	"github.com/prometheus/exporter-toolkit/web"
	webflag "github.com/prometheus/exporter-toolkit/web/kingpinflag"

	"sockstate_exporter/internal/cli/containerflags"
	"sockstate_exporter/internal/netns"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/sources"
	"sockstate_exporter/internal/unixwatch"
	"sockstate_exporter/internal/watch"
)

// Name is the name of the program.
const Name = "sockstate_exporter"

// Options are the command line.
type Options struct {
	Sources     sources.Options
	MaxRequests int
	MaxProcs    int // CPUs that run Go code at a time; 0: all
	Web         *web.FlagConfig
	Log         promslog.Config
}

// Parse reads the command line. It returns nil if that asks for help or the version.
func Parse(args []string, stdout, stderr io.Writer) (*Options, error) {
	opts := Options{Log: promslog.Config{Writer: stderr}}
	finished := false
	app := kingpin.New(Name, "Prometheus exporter for socket state on Linux: TCP states per port (TIME_WAIT and others), listeners and their queues, failed binds, and whether a restart would work.\n\n"+
		"`sockstate_exporter check WHAT...` does not serve metrics. It says whether a restart of the server on a port would work now, and what blocks it. See `sockstate_exporter check --help`.")
	app.UsageWriter(stdout).ErrorWriter(stderr).Terminate(func(int) { finished = true })
	app.HelpFlag.Short('h')
	app.Version(version.Print(Name))

	var watching watch.Config
	app.Flag("watch.port", "Always watch this port or range, even if nothing listens on it. In other network namespaces the watch starts when something listens. TCP is the default; add /udp for UDP. Add :NAME to name it. Repeatable. Examples: 4840, 53/udp, 8000-8010, 4840:opcua.").
		PlaceHolder("PORT|RANGE[/PROTOCOL][:NAME]").SetValue(&value[watch.Spec]{flag: "--watch.port", parse: watch.ParseSpec, list: &watching.Ports})
	app.Flag("watch.listeners", "Watch every port that has a TCP or UDP listener.").Default("true").BoolVar(&watching.Listeners)
	app.Flag("watch.retention", "How long to watch a discovered port after its listener closed. The port stays longer while other sockets are on it.").Default("10m").
		SetValue(&value[time.Duration]{flag: "--watch.retention", parse: parseRetention, one: &watching.Retention})
	app.Flag("watch.exclude", "Never watch these ports just because something listens on them. Repeatable. Examples: 22, 30000-32767, 5353/udp.").
		PlaceHolder("PORT|RANGE[/PROTOCOL]").SetValue(&value[watch.Exclusion]{flag: "--watch.exclude", parse: watch.ParseExclusion, list: &watching.Exclude})
	app.Flag("watch.remote-port", "Count TCP sockets to this remote port or range. Repeatable. Examples: 5432, 9092-9095.").
		PlaceHolder("PORT|RANGE").SetValue(&value[sock.PortRange]{flag: "--watch.remote-port", parse: watch.ParseRange, list: &opts.Sources.RemotePorts})
	app.Flag("watch.unix", "Watch the Unix sockets with this path: who listens, the accept queue, and servers that no client reaches. A pattern such as /run/*/app.sock watches the sockets that it matches. Repeatable. At most 256 paths. Examples: /run/php/fpm.sock, /run/*/*.sock, @abstract.").
		PlaceHolder("PATH|GLOB").SetValue(&value[unixwatch.Spec]{flag: "--watch.unix", parse: unixwatch.ParseSpec, list: &opts.Sources.UnixPaths})
	app.Flag("watch.max-ports", "Maximum number of ports to watch in all network namespaces together. Ports from --watch.port come first. Others keep their place, and each user has a fair share.").Default("1024").
		SetValue(&value[int]{flag: "--watch.max-ports", parse: atLeast(1), one: &watching.MaxPorts})

	app.Flag("netns", "Also watch this network namespace: a name in /run/netns, a path, or a glob of either. Repeatable. Examples: blue, cni-*, /var/run/docker/netns/*.").
		PlaceHolder("NAME|GLOB|PATH").SetValue(&value[netns.Spec]{flag: "--netns", parse: netns.ParseSpec, list: &opts.Sources.Netns})
	app.Flag("netns.processes", "Also watch the network namespaces of all running processes, such as those of containers.").Default("false").BoolVar(&opts.Sources.Processes)

	containers := containerflags.Add(app)

	app.Flag("collector.tcp", "Collect TCP sockets per watched port and state.").Default("true").BoolVar(&opts.Sources.TCP)
	app.Flag("collector.listener", "Collect listening sockets, their accept queues and their drops.").Default("true").BoolVar(&opts.Sources.Listener)
	app.Flag("collector.reuse", "Collect SO_REUSEADDR and SO_REUSEPORT of listeners.").Default("true").BoolVar(&opts.Sources.Reuse)
	app.Flag("collector.restart", "Collect whether a restarted listener could bind, and what blocks it.").Default("true").BoolVar(&opts.Sources.Restart)
	app.Flag("collector.bind", "Collect failed bind() and listen() calls.").Default("true").BoolVar(&opts.Sources.Bind)
	app.Flag("collector.connect", "Collect connect() calls that found no free local port. This needs --collector.bind.").Default("true").BoolVar(&opts.Sources.Connect)
	app.Flag("collector.udp", "Collect sockets, receive queues and drops of watched UDP ports.").Default("true").BoolVar(&opts.Sources.UDP)
	app.Flag("collector.unix", "Collect failed binds of Unix sockets, which needs --collector.bind, and the paths of --watch.unix.").Default("true").BoolVar(&opts.Sources.Unix)
	app.Flag("collector.remote", "Collect TCP sockets to the ports of --watch.remote-port.").Default("true").BoolVar(&opts.Sources.Remote)
	app.Flag("collector.ephemeral", "Collect the number of local ports in use for the busiest destinations.").Default("true").BoolVar(&opts.Sources.Ephemeral)
	app.Flag("collector.owner", "Collect the process and the systemd unit or container of listeners and of failed binds.").Default("true").BoolVar(&opts.Sources.Owner)
	app.Flag("collector.stack", "Collect counters and limits of each network namespace.").Default("true").BoolVar(&opts.Sources.Stack)

	opts.Web = webflag.AddFlags(app, ":10048")
	app.Flag("web.max-requests", "Maximum number of scrapes to serve at the same time; 0 means no limit. Pages do not count.").Default("40").
		SetValue(&value[int]{flag: "--web.max-requests", parse: atLeast(0), one: &opts.MaxRequests})
	app.Flag("runtime.gomaxprocs", "Number of CPUs on which the exporter's own code runs at a time; 0 means all. The kernel answers on others meanwhile.").Envar("GOMAXPROCS").Default("1").
		SetValue(&value[int]{flag: "--runtime.gomaxprocs", parse: atLeast(0), one: &opts.MaxProcs})
	promslogflag.AddFlags(app, &opts.Log)

	_, err := app.Parse(args)
	switch {
	case finished:
		return nil, nil
	case err != nil && firstWord(app, args) == "check":
		return nil, errors.New("check comes first: sockstate_exporter check [flags] WHAT... (try check --help)")
	case err != nil && slices.ContainsFunc(args, func(arg string) bool { return isUnknownCollector(app, arg) }):
		return nil, fmt.Errorf("%w: the collectors are %s", err, collectors(app))
	case err != nil:
		return nil, fmt.Errorf("%w (try --help)", err)
	}
	if opts.Sources.Watch, err = watch.NewPlan(watching); err != nil {
		return nil, fmt.Errorf("--watch.port: %w", err)
	}
	opts.Sources.Retention = watching.Retention
	opts.Sources.Containers = containers.Paths()
	if n := countPorts(opts.Sources.RemotePorts); n > watching.MaxPorts {
		return nil, fmt.Errorf("--watch.remote-port: %d ports, want --watch.max-ports=%d or fewer", n, watching.MaxPorts)
	}
	if n := unixwatch.TooMany(opts.Sources.UnixPaths); n > 0 {
		return nil, fmt.Errorf("--watch.unix: %d paths, want %d or fewer", n+unixwatch.MaxPaths, unixwatch.MaxPaths)
	}
	if *opts.Web.WebConfigFile != "" {
		if err := web.Validate(*opts.Web.WebConfigFile); err != nil {
			return nil, fmt.Errorf("--web.config.file=%s: %w", *opts.Web.WebConfigFile, err)
		}
	}
	return &opts, nil
}

// firstWord is the first argument that belongs to no flag. It is for a command line that was
// refused, as it makes the application accept such arguments.
func firstWord(app *kingpin.Application, args []string) string {
	_ = app.Arg("word", "").Strings()
	parsed, _ := app.ParseContext(args) // parses up to the first flag that does not exist
	if parsed == nil {
		return ""
	}
	for _, e := range parsed.Elements {
		if _, isWord := e.Clause.(*kingpin.ArgClause); isWord {
			return *e.Value
		}
	}
	return ""
}

const collectorFlag = "collector."

func isUnknownCollector(app *kingpin.Application, arg string) bool {
	name, isFlag := strings.CutPrefix(arg, "--")
	name, _, _ = strings.Cut(strings.TrimPrefix(name, "no-"), "=")
	return isFlag && strings.HasPrefix(name, collectorFlag) && app.GetFlag(name) == nil
}

// collectors lists the collectors, which all have a flag.
func collectors(app *kingpin.Application) string {
	var names []string
	for _, f := range app.Model().Flags {
		if name, ok := strings.CutPrefix(f.Name, collectorFlag); ok {
			names = append(names, name)
		}
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " and " + names[last]
}
