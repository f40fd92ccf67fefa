package check

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"sockstate_exporter/internal/check/args"
	"sockstate_exporter/internal/cli/containerflags"
	"sockstate_exporter/internal/container"
	"sockstate_exporter/internal/report"
	"sockstate_exporter/internal/unixsock"
	"sockstate_exporter/internal/watch"
)

const name = "sockstate_exporter check"

const help = `Say whether a restart of what listens on a TCP or UDP port would work now or, if nothing listens, whether bind() would. Say what blocks it, for how long, and what to do about it. For the path of a Unix socket, say whether it is free, in use and by whom, or a stale file.

WHAT is a port (4840), a range (8000-8010), a service of /etc/services (http), an address with a port (127.0.0.1:8080, [::1]:8080), or the path of a Unix socket (/run/app.sock, ./app.sock, @abstract). Without /tcp or /udp behind the port (53/udp), it is about both.

The first line about a port is about a restart if something listens. The exit status is about a new bind(), and a listener blocks that like any other socket. With --restart the exit status is about the restart, too.

Exit status: 0 it would work, on every port and address; 1 it would fail; 2 that cannot be known, or the command line is wrong. docs/check.md describes the JSON output.`

// options are the command line.
type options struct {
	targets   []report.Target
	sockets   []unixsock.Name // of Unix sockets
	netns     string          // empty: the one that it runs in
	names     *container.Names
	restart   bool
	reuseAddr bool
	reusePort bool
	json      bool
	wait      wait
}

// specs are the TCP ports to look at.
func (o *options) specs() []watch.Spec {
	var out []watch.Spec
	for i := range o.targets {
		if !o.targets[i].NoTCP {
			out = append(out, watch.Spec{PortRange: o.targets[i].PortRange})
		}
	}
	return out
}

// parse reads the command line. It returns nil if that asks for help.
func parse(line []string, stdout, stderr io.Writer) (*options, error) {
	var opts options
	var addresses []string
	var what args.List
	finished := false
	line = args.NoFiles(waitForever(line))
	app := kingpin.New(name, help)
	app.UsageWriter(stdout).ErrorWriter(stderr).Terminate(func(int) { finished = true })
	app.HelpFlag.Short('h')
	app.Flag("restart", "The exit status says whether a restart of what listens would work. Where nothing listens, it is about a new bind as without --restart.").BoolVar(&opts.restart)
	app.Flag("wait", "Wait while the exit status would be 1, for at most this time; --wait alone waits without limit. Standard error says what it waits for.").
		PlaceHolder("DURATION").SetValue(&opts.wait)
	app.Flag("reuseaddr", "The server that binds anew sets SO_REUSEADDR.").BoolVar(&opts.reuseAddr)
	app.Flag("reuseport", "The server that binds anew sets SO_REUSEPORT, and runs as the user who runs this command.").BoolVar(&opts.reusePort)
	app.Flag("address", "Address to bind to, for each WHAT without one. Repeatable. Default: the addresses that listen on the port, or 0.0.0.0 and :: if nothing listens.").
		PlaceHolder("ADDR").StringsVar(&addresses)
	app.Flag("netns", "Check in this network namespace: a pod (NAMESPACE/POD), a container of Docker or Podman, a name in /run/netns, or a path such as /proc/4711/ns/net.").
		PlaceHolder("POD|NAME|PATH").StringVar(&opts.netns)
	app.Flag("json", "Write JSON for programs instead of text.").BoolVar(&opts.json)
	paths := containerflags.Add(app)
	app.Arg("WHAT", "What to check; repeatable.").Required().SetValue(&what)

	_, err := app.Parse(line)
	switch {
	case finished:
		return nil, nil
	case err != nil && !hasArgs(app, line):
		return nil, errors.New("no port given, want one or more, such as 4840 (try --help)")
	case err != nil:
		return nil, fmt.Errorf("%w (try --help)", err)
	}
	opts.names = container.New(paths.Paths())
	// Addresses and their interfaces are those of the namespace.
	if opts.netns != "" {
		if err := enter(opts.netns, opts.names.OfPID); err != nil {
			return nil, fmt.Errorf("--netns=%s: %w (try --help)", opts.netns, err)
		}
	}
	parsed, err := args.ParseAddresses(addresses)
	if err == nil {
		opts.targets, err = args.Targets(what, parsed)
	}
	if err == nil {
		opts.sockets, err = args.Names(what)
	}
	if err != nil {
		return nil, fmt.Errorf("%w (try --help)", err)
	}
	return &opts, nil
}

// hasArgs says whether a command line has arguments beside flags. It is true if a flag does not
// exist, since kingpin parses no further.
func hasArgs(app *kingpin.Application, args []string) bool {
	parsed, err := app.ParseContext(args)
	return err != nil || slices.ContainsFunc(parsed.Elements, func(e *kingpin.ParseElement) bool {
		_, isArg := e.Clause.(*kingpin.ArgClause)
		return isArg
	})
}

// wait is the flag --wait.
type wait struct {
	asked   bool
	forever bool
	limit   time.Duration // unless forever
}

const forever = "forever"

// waitForever gives --wait its value where it stands alone. kingpin has no flags whose value may be
// left out.
func waitForever(args []string) []string {
	end := slices.Index(args, "--")
	if end < 0 {
		end = len(args)
	}
	out := slices.Clone(args)
	for i := range out[:end] {
		if out[i] == "--wait" {
			out[i] = "--wait=" + forever
		}
	}
	return out
}

func (w *wait) Set(s string) error {
	limit, err := time.ParseDuration(s)
	switch {
	case s == forever:
	case err != nil || limit < 0:
		return fmt.Errorf("--wait=%s: want a duration such as 30s or 2m, or --wait alone", s)
	}
	*w = wait{asked: true, forever: s == forever, limit: limit}
	return nil
}

func (*wait) String() string { return "" }
