package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/promslog"
	promslogflag "github.com/prometheus/common/promslog/flag"
	"github.com/prometheus/common/version"
	"github.com/prometheus/exporter-toolkit/web"
	webflag "github.com/prometheus/exporter-toolkit/web/kingpinflag"

	"sockstate_exporter/internal/netns"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/sources"
)

// Name is that of the program.
const Name = "sockstate_exporter"

// Options are the command line.
type Options struct {
	Sources     sources.Options
	MaxRequests int
	Web         *web.FlagConfig
	Log         promslog.Config
}

// Parse reads the command line; nil Options mean that it asked for help or the version only.
func Parse(args []string, stdout, stderr io.Writer) (*Options, error) {
	opts := Options{Log: promslog.Config{Writer: stderr}}
	finished := false
	app := kingpin.New(Name, "Prometheus exporter for socket state on Linux: TIME_WAIT and the other TCP states per port, listeners and their queues, failed binds, and whether a restart would work.\n\n"+
		"`sockstate_exporter check PORT...` serves nothing: it says whether a bind to the ports would work now, and what is in the way. See `sockstate_exporter check --help`.")
	app.UsageWriter(stdout).ErrorWriter(stderr).Terminate(func(int) { finished = true })
	app.HelpFlag.Short('h')
	app.Version(version.Print(Name))

	var watching ports.Config
	app.Flag("watch.port", "Port to watch whether it has a listener or not, of TCP unless /udp follows, with a name if you like. Repeatable. Examples: 4840, 53/udp, 8000-8010, 4840:opcua.").
		PlaceHolder("PORT|RANGE[/PROTOCOL][:NAME]").SetValue(&value[ports.Spec]{flag: "--watch.port", parse: ports.ParseSpec, list: &watching.Ports})
	app.Flag("watch.listeners", "Watch every port that has a TCP or UDP listener.").Default("true").BoolVar(&watching.Listeners)
	app.Flag("watch.retention", "How long such a port stays watched after its listener went; longer while sockets linger on it.").Default("10m").
		SetValue(&value[time.Duration]{flag: "--watch.retention", parse: parseRetention, one: &watching.Retention})
	app.Flag("watch.exclude", "Port or range not to watch for having a listener. Repeatable. Examples: 22, 30000-32767, 5353/udp.").
		PlaceHolder("PORT|RANGE[/PROTOCOL]").SetValue(&value[ports.Exclusion]{flag: "--watch.exclude", parse: ports.ParseExclusion, list: &watching.Exclude})
	app.Flag("watch.remote-port", "Port of others to count TCP sockets to. Repeatable. Examples: 5432, 9092-9095.").
		PlaceHolder("PORT|RANGE").SetValue(&value[sock.PortRange]{flag: "--watch.remote-port", parse: ports.ParseRange, list: &opts.Sources.RemotePorts})
	app.Flag("watch.max-ports", "Most ports to watch, of all namespaces: those of --watch.port first, then by number.").Default("512").
		SetValue(&value[int]{flag: "--watch.max-ports", parse: atLeast(1), one: &watching.MaxPorts})

	app.Flag("netns", "Network namespace to watch beside the exporter's own: a name or a glob of names in /run/netns, or a path or a glob of paths. Repeatable. Examples: blue, cni-*, /var/run/docker/netns/*.").
		PlaceHolder("NAME|GLOB|PATH").SetValue(&value[netns.Spec]{flag: "--netns", parse: netns.ParseSpec, list: &opts.Sources.Netns})
	app.Flag("netns.processes", "Watch the network namespaces of all running processes, as those of containers.").Default("false").BoolVar(&opts.Sources.Processes)

	app.Flag("collector.tcp", "Sockets per watched port and TCP state.").Default("true").BoolVar(&opts.Sources.TCP)
	app.Flag("collector.listener", "Listening sockets: accept queues and drops.").Default("true").BoolVar(&opts.Sources.Listener)
	app.Flag("collector.reuse", "SO_REUSEADDR and SO_REUSEPORT of listeners.").Default("true").BoolVar(&opts.Sources.Reuse)
	app.Flag("collector.restart", "Whether a restart of a listener could bind, and what is in the way.").Default("true").BoolVar(&opts.Sources.Restart)
	app.Flag("collector.bind", "Failed bind() and listen() calls.").Default("true").BoolVar(&opts.Sources.Bind)
	app.Flag("collector.connect", "Calls of connect() that found no local port, traced with those of bind().").Default("true").BoolVar(&opts.Sources.Connect)
	app.Flag("collector.udp", "Sockets, receive queues and drops of watched UDP ports.").Default("true").BoolVar(&opts.Sources.UDP)
	app.Flag("collector.remote", "Sockets to the ports of --watch.remote-port.").Default("true").BoolVar(&opts.Sources.Remote)
	app.Flag("collector.ephemeral", "Local ports in use for the busiest destinations.").Default("true").BoolVar(&opts.Sources.Ephemeral)
	app.Flag("collector.owner", "Process and systemd unit or container of listeners and of those who fail to bind.").Default("true").BoolVar(&opts.Sources.Owner)
	app.Flag("collector.stack", "Counters and limits of the network namespace.").Default("true").BoolVar(&opts.Sources.Stack)

	opts.Web = webflag.AddFlags(app, ":10048")
	app.Flag("web.max-requests", "Most scrapes and pages served at a time; 0 for no limit.").Default("40").
		SetValue(&value[int]{flag: "--web.max-requests", parse: atLeast(0), one: &opts.MaxRequests})
	promslogflag.AddFlags(app, &opts.Log)

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
	if opts.Sources.Watch, err = ports.NewPlan(watching); err != nil {
		return nil, fmt.Errorf("--watch.port: %w", err)
	}
	opts.Sources.Retention = watching.Retention
	if n := countPorts(opts.Sources.RemotePorts); n > watching.MaxPorts {
		return nil, fmt.Errorf("--watch.remote-port: %d ports, want --watch.max-ports=%d or fewer", n, watching.MaxPorts)
	}
	if *opts.Web.WebConfigFile != "" {
		if err := web.Validate(*opts.Web.WebConfigFile); err != nil {
			return nil, fmt.Errorf("--web.config.file=%s: %w", *opts.Web.WebConfigFile, err)
		}
	}
	return &opts, nil
}
