package check

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/bindbucket"
	"sockstate_exporter/internal/bpf/sockfiles"
	"sockstate_exporter/internal/bpf/sockflags"
	"sockstate_exporter/internal/bpf/udphash"
	"sockstate_exporter/internal/facts"
	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/report"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/watch"
)

// patience is for a host where the dumps take long; a million sockets take a second.
const patience = 30 * time.Second

// sources are what the command asks. They stay open while it waits.
type sources struct {
	host   *probe.Host
	flags  *sockflags.Reader  // nil: the kernel or the user may not
	bucket *bindbucket.Reader // nil: as above
	udp    *udphash.Reader    // nil: as above, or not asked for
	udpErr error              // why udp is nil
	owners *owner.Finder      // nil: no procfs
	files  *sockfiles.Reader  // nil: owners are found in procfs
	lacks  []lack

	// missed are the lacks of the last look for owners.
	missed []lack
}

// A lack is something that this host and user do not let the command see.
type lack struct {
	what   string // in a few words
	detail string // with what it needs
	always bool   // it matters on a free port, too
}

// openSources opens what this host and user allow.
func openSources(opts *options) *sources {
	src := &sources{host: new(probe.Host)}
	types := btf.NewCache()
	src.openFlags(types)
	src.openBuckets(types)
	src.openUDP(opts, types)
	if src.bucket == nil && hidesBound() {
		src.lack(lack{what: "sockets that are bound and do not listen", detail: "sockets that are bound and do not listen: Linux shows them from 6.8 on", always: true})
	}
	search := owner.Options{Wait: ownersWait, Containers: opts.names.Of}
	if files, err := sockfiles.New(types); err == nil { // sees processes that procfs does not open for root
		src.files, search.Searcher = files, files
	}
	finder, err := owner.New(search)
	if err != nil {
		src.lack(lack{what: "owners of sockets", detail: fmt.Sprintf("owners of sockets: %v", err)})
		return src
	}
	src.owners = finder
	return src
}

// Close closes what is open.
func (src *sources) Close() {
	if src.owners != nil {
		_ = src.owners.Close()
	}
	if src.files != nil {
		_ = src.files.Close()
	}
	if src.udp != nil {
		_ = src.udp.Close()
	}
	if src.bucket != nil {
		_ = src.bucket.Close()
	}
	if src.flags != nil {
		_ = src.flags.Close()
	}
}

func (src *sources) lack(l lack) { src.lacks = append(src.lacks, l) }

// openFlags opens what reads the reuse flags.
func (src *sources) openFlags(types *btf.Cache) {
	flags, err := sockflags.New(sockflags.Options{Types: types})
	if err != nil {
		src.lack(lack{what: "SO_REUSEADDR of sockets", detail: fmt.Sprintf("SO_REUSEADDR and SO_REUSEPORT of any socket: %v", err)})
		return
	}
	src.flags, src.host.Flags = flags, flags
	for _, shortfall := range flags.Shortfalls() {
		src.lack(flagsLack(shortfall))
	}
}

func flagsLack(u *sock.UnavailableError) lack {
	if u.Mode == string(sockflags.ModeBPF) {
		return lack{what: "SO_REUSEADDR of sockets that do not listen", detail: "SO_REUSEADDR of sockets that do not listen, TIME_WAIT too: needs " + u.Need}
	}
	return lack{what: "SO_REUSEADDR of other users' listeners", detail: "SO_REUSEADDR of listeners: needs " + u.Need}
}

// openBuckets opens what reads the sockets of a few ports.
func (src *sources) openBuckets(types *btf.Cache) {
	if src.flags == nil || src.flags.Mode() != sockflags.ModeBPF {
		return
	}
	buckets, err := bindbucket.New(types)
	if err != nil {
		return
	}
	src.bucket, src.host.Buckets = buckets, buckets
}

// hidesBound: the kernel does not know TCPF_BOUND_INACTIVE in a dump.
func hidesBound() bool {
	code, err := features.LinuxVersionCode()
	return err == nil && code < 6<<16|8<<8
}

// look looks at the ports and at the Unix sockets. It looks for owners only if asked to: that
// takes a look at every process.
func (src *sources) look(ctx context.Context, opts *options, owners bool) (*judgement, error) {
	ports, err := src.lookAtPorts(ctx, opts, owners)
	if err != nil {
		return nil, err
	}
	unix, err := src.lookAtUnix(ctx, opts, owners)
	return &judgement{ports: ports, unix: unix}, err
}

// lookAtPorts takes a snapshot of the ports and judges it.
func (src *sources) lookAtPorts(ctx context.Context, opts *options, owners bool) (*report.Report, error) {
	if len(opts.targets) == 0 {
		return noPorts(opts), nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("no answer from the kernel within %v", patience))
	defer cancel()
	query := report.Query{
		Targets: opts.targets, Restart: opts.restart,
		ReuseAddr: opts.reuseAddr, ReusePort: opts.reusePort, UID: bindrule.UIDOf(uint32(os.Geteuid())),
	}
	judged := noPorts(opts)
	if !onlyUDP(opts.targets) {
		var err error
		if judged, err = src.lookAtTCP(ctx, opts, &query, owners); err != nil {
			return nil, err
		}
	}
	judged.UDP = []report.UDPPort{}
	return judged, src.lookAtUDP(ctx, opts, &query, judged, owners)
}

func (src *sources) lookAtTCP(ctx context.Context, opts *options, query *report.Query, owners bool) (*report.Report, error) {
	plan, err := watch.NewPlan(watch.Config{Ports: opts.specs(), MaxPorts: 1 << 16})
	if err != nil {
		return nil, err
	}
	own := src.host.Own()
	query.LocalPorts = own.LocalPorts()
	_ = own.Close()
	query.PrivilegedBelow = privilegedBelow()
	cfg := snapshot.Config{Host: src.host, Watch: plan, Parts: snapshot.Parts{Listeners: true, Verdicts: true}, Binds: requests(query)}
	if owners && src.owners != nil {
		query.Open = src.findOwners(ctx, opts)
		cfg.Owners = src.owners
	}
	for _, l := range slices.Concat(src.lacks, src.missed) {
		query.Unseen = append(query.Unseen, l.detail)
	}
	taker := snapshot.New(cfg)
	defer taker.Close()

	snap := taker.Take(ctx)
	judged, err := report.New(&snap, *query)
	if err != nil {
		return nil, fmt.Errorf("look at the sockets: %w", err)
	}
	return judged, nil
}

// privilegedBelow is the first port that this process may bind to, if there are others below it. A server may
// have other privileges.
func privilegedBelow() int {
	start, err := linux.NetSysctl("ipv4", "ip_unprivileged_port_start")
	if err != nil || linux.HasCap(unix.CAP_NET_BIND_SERVICE) {
		return 0
	}
	first, _ := strconv.Atoi(start)
	return first
}

// requests are the binds that the report will ask about, beside those that a snapshot expects anyway.
func requests(q *report.Query) []bindrule.Request {
	var out []bindrule.Request
	if q.ReusePort {
		out = []bindrule.Request{{Addr: netip.IPv4Unspecified(), UID: q.UID}, {Addr: netip.IPv6Unspecified(), UID: q.UID}}
	}
	for i := range q.Targets {
		a := q.Targets[i].Address
		r := bindrule.Request{Addr: a.Addr, Ifindex: a.Ifindex, UID: q.UID}
		if a.Addr.IsValid() && !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	return out
}

// findOwners finds who has sockets on the ports. After that, the finder knows the listeners of the
// snapshot.
func (src *sources) findOwners(ctx context.Context, opts *options) map[uint16][]facts.Open {
	ns := src.host.Own()
	defer ns.Close()
	var ranges []sock.PortRange
	for _, s := range opts.specs() {
		ranges = append(ranges, s.PortRange)
	}
	src.missed = nil
	open, missed, err := findHolders(ctx, ns, src.owners, watch.NewFixed(ranges))
	if err != nil {
		src.missed = append(src.missed, lack{what: "owners of sockets", detail: err.Error()})
	}
	if missed == 0 {
		return open
	}
	for _, shortfall := range src.owners.Shortfalls() {
		src.missed = append(src.missed, lack{what: "owners of some sockets", detail: shortfall.Error()})
	}
	return open
}

// notSeen says in a line what could not be seen and may matter for the report. It is empty if there
// is no such thing.
func (src *sources) notSeen(judged *report.Report) string {
	nothing := len(judged.UDP) == 0 && !slices.ContainsFunc(judged.Ports, func(p report.PortReport) bool { return hasDetails(&p) })
	var what []string
	for _, l := range slices.Concat(src.lacks, src.missed) {
		if (l.always || !nothing) && !slices.Contains(what, l.what) {
			what = append(what, l.what)
		}
	}
	if len(what) == 0 {
		return ""
	}
	hint := "--json says why"
	if os.Geteuid() != 0 {
		hint = "root sees more"
	}
	return strings.Join(what, ", ") + " (" + hint + ")"
}
