package sources

import (
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	libcap "kernel.org/pub/linux/libs/security/libcap/cap"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/bindbucket"
	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/bpf/sockfiles"
	"sockstate_exporter/internal/bpf/sockflags"
	"sockstate_exporter/internal/bpf/sockwalk"
	"sockstate_exporter/internal/bpf/udphash"
	"sockstate_exporter/internal/container"
	"sockstate_exporter/internal/failures"
	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/netns"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/stack"
	"sockstate_exporter/internal/unixfailures"
	"sockstate_exporter/internal/unixwatch"
	"sockstate_exporter/internal/watch"
)

// Options say which sources to open.
type Options struct {
	Watch       *watch.Plan
	Retention   time.Duration
	RemotePorts []sock.PortRange
	Netns       []netns.Spec
	Processes   bool // also the network namespaces of processes
	Containers  container.Paths

	// What to collect. The fields have the names of the collectors.
	TCP, Listener, Reuse, Restart, Bind, Connect, UDP, Remote, Ephemeral, Owner, Stack, Unix bool

	UnixPaths []unixwatch.Spec // whose Unix sockets are watched
}

// Sources are what a snapshot is taken from. A source that does not work on this host is missing.
type Sources struct {
	Taker    *snapshot.Taker
	Features []sock.Feature

	opts   *Options
	types  *btf.Cache        // of the kernel; nil after Open
	tracer *bindtrace.Tracer // nil where binds cannot be traced
	flags  *sockflags.Reader // nil where flags cannot be read

	buckets *bindbucket.Reader // nil where bind buckets cannot be read
	walker  *sockwalk.Walker   // nil where each namespace has to be dumped
	udp     *udphash.Reader    // nil where the flags of UDP sockets cannot be read
	owners  *owner.Finder      // nil where owners cannot be found
	files   *sockfiles.Reader  // nil where owners are found in procfs

	containers *container.Names

	failures *failures.Recorder // nil without a tracer

	unixFailures *unixfailures.Recorder // nil without a tracer
	unixWatch    *unixwatch.Watcher     // nil where no path is to be watched

	following sync.WaitGroup // ends with the tracer
}

// Open opens everything that needs a privilege. A source that does not work here is no error: it
// is missing, with its reason, in the features and in one log line. onConflict gets the calls
// that failed: see failures.Config. onUnix gets those of Unix sockets: see unixfailures.Config.
//
// Open gives memory back to the system after each feature that loads eBPF programs. What all of them
// take would be the most that the exporter ever has.
func Open(opts *Options, onConflict func(failures.Conflict), onUnix func(unixfailures.Failure), logger *slog.Logger) *Sources {
	s := &Sources{opts: opts, types: btf.NewCache(), containers: container.New(opts.Containers)}
	defer func() { s.types = nil }()
	host := new(probe.Host)
	host.OwnInode, host.OwnCookie = ownNetns()
	host.BoundInactive = isLinux(6, 8)
	if isLinux(6, 12) {
		host.MappedMeetsAny = bindrule.Yes
	}
	readProcfs(&host.Config, opts.Stack)
	cfg := snapshot.Config{
		Host:      host,
		Watch:     opts.Watch,
		Retention: opts.Retention,
		OnWalkFailed: func(err error) {
			logger.Warn("one walk for all network namespaces failed; each is asked by sock_diag for ten minutes", "err", err)
		},
		Parts: snapshot.Parts{TCP: opts.TCP, Listeners: opts.Listener, Verdicts: opts.Restart, UDP: opts.UDP, Ephemeral: opts.Ephemeral},
	}
	if opts.Remote && len(opts.RemotePorts) > 0 {
		cfg.Parts.Remote = watch.NewFixed(opts.RemotePorts)
	}
	recording := failures.Config{Host: host, Watch: opts.Watch, OnConflict: onConflict}
	if opts.Owner {
		s.openOwners(logger)
		linux.FreeMemory()
		if s.owners != nil {
			cfg.Owners, recording.Owners, recording.Sockets = s.owners, s.owners, s.owners
		}
	}
	host.Others = s.openNamespaces(opts, logger)
	if opts.Bind {
		s.openTracer(opts, logger)
		linux.FreeMemory()
	}
	if opts.Reuse {
		s.openFlags(logger)
		linux.FreeMemory()
		if s.flags != nil {
			host.Flags = s.flags
		}
		if s.buckets != nil {
			host.Buckets = s.buckets
		}
	}
	if s.openUDP(opts, logger); s.udp != nil {
		host.UDP = s.udp
		linux.FreeMemory()
	}
	if s.openWalker(logger); s.walker != nil {
		host.Walker = s.walker
	}
	if s.tracer != nil {
		recording.Tracer = s.tracer
		s.failures = failures.New(recording)
		cfg.Failures = s.failures
	}
	s.Taker = snapshot.New(cfg)
	if opts.Unix {
		s.openUnix(host, onUnix, logger)
	}
	return s
}

// Follow reads the details of failed binds and finds the causes of conflicts, until Close.
func (s *Sources) Follow(logger *slog.Logger) {
	if s.failures == nil {
		return
	}
	s.following.Go(func() {
		if err := s.failures.Follow(); err != nil {
			logger.Error("details of failed binds: not read any more", "err", err)
		}
	})
	s.followUnix(logger)
}

// Close closes all sources.
func (s *Sources) Close() {
	if s.tracer != nil {
		_ = s.tracer.Close()
	}
	s.following.Wait()
	_ = s.Taker.Close()
	if s.flags != nil {
		_ = s.flags.Close()
	}
	if s.buckets != nil {
		_ = s.buckets.Close()
	}
	if s.udp != nil {
		_ = s.udp.Close()
	}
	if s.walker != nil {
		_ = s.walker.Close()
	}
	if s.owners != nil {
		_ = s.owners.Close()
	}
	if s.files != nil {
		_ = s.files.Close()
	}
}

// Capabilities returns what the sources need as long as they are open.
func (s *Sources) Capabilities() []libcap.Value {
	var needed []libcap.Value
	if s.flags != nil && s.flags.Mode() == sockflags.ModePidfd {
		needed = append(needed, libcap.SYS_PTRACE, libcap.DAC_READ_SEARCH)
	}
	if s.owners != nil {
		needed = append(needed, libcap.SYS_PTRACE, libcap.DAC_READ_SEARCH) // /proc/PID/fd of other users
	}
	if len(s.opts.Netns) > 0 || s.opts.Processes {
		needed = append(needed, libcap.SYS_ADMIN) // setns
	}
	if slices.ContainsFunc(s.opts.Netns, func(s netns.Spec) bool { return filepath.IsAbs(s.String()) }) {
		needed = append(needed, libcap.DAC_READ_SEARCH) // directories of container engines are root's alone
	}
	if slices.ContainsFunc(s.opts.Netns, func(s netns.Spec) bool { return strings.HasPrefix(s.String(), "/proc/") }) {
		needed = append(needed, libcap.SYS_PTRACE) // /proc/PID/ns of other users
	}
	if s.opts.Processes || slices.ContainsFunc(s.opts.Netns, netns.Spec.Glob) {
		// /proc/PID/ns of other users; the names of containers, in folders of root
		needed = append(needed, libcap.SYS_PTRACE, libcap.DAC_READ_SEARCH)
	}
	if s.usesBPF() && !isLinux(5, 19) {
		needed = append(needed, libcap.BPF) // map look-ups, where unprivileged bpf(2) is disabled
	}
	slices.Sort(needed)
	return slices.Compact(needed)
}

// isLinux says whether the kernel is known to be at least this version.
func isLinux(major, minor uint32) bool {
	code, err := features.LinuxVersionCode()
	return err == nil && code >= major<<16|minor<<8
}

// usesBPF says whether eBPF programs are loaded. bindbucket and sockwalk are only opened beside sockflags'
// iterator.
func (s *Sources) usesBPF() bool {
	return s.tracer != nil || s.files != nil || s.udp != nil || s.flags != nil && s.flags.Mode() == sockflags.ModeBPF
}

// ownNetns returns the inode number and the cookie of the exporter's network namespace. One that cannot be
// read is 0.
func ownNetns() (inode uint32, cookie uint64) {
	_ = linux.RunOnThread(func() error {
		if _, n, err := linux.OwnNetNS(); err == nil {
			inode = uint32(n)
		}
		cookie, _ = linux.NetNSCookie()
		return nil
	})
	return inode, cookie
}

// readProcfs sets what reads /proc. Without a usable /proc, the counters have an error that says so.
func readProcfs(c *probe.Config, counters bool) {
	reader, err := stack.NewReader("/proc")
	if err == nil {
		c.Stack, c.LocalPorts, c.Reserved, c.TCPSockets = reader.Read, reader.LocalPorts, reader.ReservedPorts, reader.TCPSockets
	} else {
		c.Stack = func() (stack.Stats, error) { return stack.Stats{}, err }
	}
	if !counters {
		c.Stack = nil
	}
}
