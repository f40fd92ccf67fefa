package check

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/bindbucket"
	"sockstate_exporter/internal/bpf/sockflags"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/report"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/watch"
)

// Exit statuses.
const (
	ExitFree    = 0 // bind() would succeed on every port
	ExitBlocked = 1 // it would fail on one
	ExitError   = 2 // that could not be found out, or the command line is wrong
)

// patience is for a host where the dumps take long; a million sockets take a second.
const patience = 30 * time.Second

// Run runs the command; args are those after its name. The result is the exit status.
func Run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	opts, err := parse(args, stdout, stderr)
	switch {
	case err != nil:
		fmt.Fprintf(stderr, "%s: error: %v\n", name, err)
		return ExitError
	case opts == nil:
		return ExitFree
	}
	judged, err := look(ctx, opts)
	if err == nil {
		err = write(judged, opts, stdout)
	}
	if err != nil {
		fmt.Fprintf(stderr, "%s: error: %v\n", name, err)
		return ExitError
	}
	return exitStatus(judged.Outcome)
}

func exitStatus(o report.Outcome) int {
	switch o {
	case report.Free:
		return ExitFree
	case report.Blocked:
		return ExitBlocked
	default:
		return ExitError
	}
}

func write(judged *report.Report, opts *options, stdout io.Writer) error {
	var err error
	if opts.json {
		err = judged.WriteJSON(stdout)
	} else {
		err = judged.WriteText(stdout, colours(stdout))
	}
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

// colours are for a terminal whose user has not declined them (https://no-color.org).
func colours(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}

// look takes a snapshot of the ports and judges it.
func look(ctx context.Context, opts *options) (*report.Report, error) {
	plan, err := watch.NewPlan(watch.Config{Ports: opts.ports, MaxPorts: 1 << 16})
	if err != nil {
		return nil, err
	}
	host := new(probe.Host)
	cfg := snapshot.Config{Host: host, Watch: plan, Parts: snapshot.Parts{Listeners: true, Verdicts: true}}
	for _, a := range opts.addresses {
		cfg.Binds = append(cfg.Binds, bindrule.Request{Addr: a.Addr, Ifindex: a.Ifindex})
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("no answer from the kernel within %v", patience))
	defer cancel()
	held, owners, unowned := lookForOwners(ctx, host.Own(), opts.ports)
	if owners != nil {
		defer owners.Close()
		cfg.Owners = owners
	}
	flags, unseen := openFlags()
	if flags != nil {
		defer flags.Close()
		host.Flags = flags
	}
	if buckets := openBuckets(flags); buckets != nil {
		defer buckets.Close()
		host.Buckets = buckets
	}
	if host.Buckets == nil && hidesBound() {
		unseen = append(unseen, "sockets that are bound and do not listen: Linux shows them from 6.8 on")
	}
	taker := snapshot.New(cfg)
	defer taker.Close()

	snap := taker.Take(ctx)
	judged, err := report.New(&snap, report.Query{Addresses: opts.addresses, ReuseAddr: opts.reuseAddr, Holders: held, Unseen: append(unseen, unowned...)})
	if err != nil {
		return nil, fmt.Errorf("look at the sockets: %w", err)
	}
	return judged, nil
}

// lookForOwners finds who has sockets on the ports, as far as this host and user allow, and
// says what it does not. The finder is for the listeners of the snapshot.
func lookForOwners(ctx context.Context, ns probe.Namespace, asked []watch.Spec) (map[uint16][]report.Holder, *owner.Finder, []string) {
	defer ns.Close()
	finder, err := owner.New(owner.Options{Wait: ownersWait})
	if err != nil {
		return nil, nil, []string{fmt.Sprintf("owners of sockets: %v", err)}
	}
	ranges := make([]sock.PortRange, len(asked))
	for i, p := range asked {
		ranges[i] = p.PortRange
	}
	var unseen []string
	held, missed, err := holders(ctx, ns, finder, watch.NewFixed(ranges))
	if err != nil {
		unseen = append(unseen, err.Error())
	}
	if missed == 0 {
		return held, finder, unseen
	}
	for _, shortfall := range finder.Shortfalls() {
		unseen = append(unseen, shortfall.Error())
	}
	return held, finder, unseen
}

// openFlags opens what reads the reuse flags, as far as this host and user allow, and says
// what they do not.
func openFlags() (flags *sockflags.Reader, unseen []string) {
	flags, err := sockflags.New(sockflags.Options{})
	if err != nil {
		return nil, []string{fmt.Sprintf("SO_REUSEADDR and SO_REUSEPORT of any socket: %v", err)}
	}
	for _, shortfall := range flags.Shortfalls() {
		unseen = append(unseen, unseenFor(shortfall))
	}
	return flags, unseen
}

// openBuckets opens what reads the sockets of a few ports; nil where the kernel does not let it.
func openBuckets(flags *sockflags.Reader) *bindbucket.Reader {
	if flags == nil || flags.Mode() != sockflags.ModeBPF {
		return nil
	}
	buckets, err := bindbucket.New()
	if err != nil {
		return nil
	}
	return buckets
}

func unseenFor(u *sock.UnavailableError) string {
	if u.Mode == string(sockflags.ModeBPF) {
		return "SO_REUSEADDR of sockets that do not listen, TIME_WAIT too: needs " + u.Need
	}
	return "SO_REUSEADDR of listeners: needs " + u.Need
}

// hidesBound: the kernel does not know TCPF_BOUND_INACTIVE in a dump.
func hidesBound() bool {
	var uts unix.Utsname
	var major, minor int
	if err := unix.Uname(&uts); err != nil {
		return false
	}
	if _, err := fmt.Sscanf(unix.ByteSliceToString(uts.Release[:]), "%d.%d", &major, &minor); err != nil {
		return false
	}
	return major < 6 || major == 6 && minor < 8
}
