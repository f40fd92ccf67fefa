package situations

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/bpf/sockfiles"
	"sockstate_exporter/internal/bpf/udphash"
	"sockstate_exporter/internal/failures"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/mounts"
	"sockstate_exporter/internal/kerneltest/opener"
	"sockstate_exporter/internal/kerneltest/reexec"
	"sockstate_exporter/internal/kerneltest/tracers"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/netlinkdiag"
)

const player = "player"

// The programs. The kernel cuts their names.
const (
	server = "invoice-frontend-server"
	binder = "order-backend-service"
	helper = "invoice-log-collector"
)

var localhost = netip.MustParseAddr("127.0.0.1")

func TestMain(m *testing.M) {
	reexec.Play(map[string]func([]string) error{player: play})
	mounts.PrivateTracefs()
	// Most situations wait for most of the time, also where there are few CPUs.
	if err := flag.Set("test.parallel", strconv.Itoa(len(situations()))); err != nil {
		panic(err)
	}
	kerneltest.Main(m)
}

// A host has the programs, and what the exporter has.
type host struct {
	ns       *kerneltest.NetNS
	programs string // directory
	recorder *failures.Recorder
	finder   *owner.Finder
	files    *sockfiles.Reader // nil: the kernel does not allow it
	updating sync.Mutex        // of the recorder, by several tests
	sets     map[uint32][]watch.Set
	turns    chan struct{} // holds a token for each failure whose diagnosis is not there yet
}

// The owners of so many sockets of one user are looked up at once.
const maxTurns = owner.MaxLookup / 4

func newHost(t *testing.T, watched, clients sock.PortRange) *host {
	t.Helper()
	kerneltest.RequireRoot(t)
	tracers.Share(t)
	h := &host{ns: kerneltest.New(t), programs: t.TempDir(), turns: make(chan struct{}, maxTurns)}
	if err := os.Chmod(filepath.Dir(h.programs), 0o755); err != nil { // other users run them, too
		t.Fatal(err)
	}
	for _, name := range []string{server, binder, helper} {
		if _, err := reexec.Named(h.programs, name); err != nil {
			t.Fatal(err)
		}
	}
	for name, value := range map[string]string{
		"net.ipv4.ip_local_port_range": fmt.Sprint(clients.First, " ", clients.Last),
		// The connections have to outlive the start of a process, also on a slow host.
		"net.ipv4.tcp_fin_timeout":    "60",
		"net.ipv4.tcp_orphan_retries": "7",
	} {
		h.ns.Sysctl(t, name, value)
	}
	number := int(watched.Last-watched.First) + 1
	w, err := watch.New(watch.Config{MaxPorts: number, Ports: []watch.Spec{{PortRange: watched}}})
	if err != nil {
		t.Fatal(err)
	}
	inode := uint32(h.ns.Inode())
	h.sets = map[uint32][]watch.Set{inode: {w.Update(time.Time{}, nil)}}

	tracer := newTracer(t, h.ns, bindtrace.Options{MaxSlots: 2*number + 16})
	var search owner.Options
	if files, err := sockfiles.New(nil); err == nil {
		h.files, search.Searcher = files, files
		t.Cleanup(func() { _ = files.Close() })
	}
	if h.finder, err = owner.New(search); err != nil {
		t.Fatal(err)
	}
	h.recorder = failures.New(failures.Config{
		Tracer: tracer,
		Host: &probe.Host{OwnInode: inode, Config: probe.Config{
			NetNS: h.ns.FD(), UDP: newUDPReader(t),
			LocalPorts: func() (first, last uint16, err error) {
				text, err := h.ns.GetSysctl("net.ipv4.ip_local_port_range")
				if err == nil {
					_, err = fmt.Sscan(text, &first, &last)
				}
				return first, last, err
			},
		}},
		Owners: h.finder, Sockets: h.finder,
	})
	h.recent(t) // tells the tracer what to watch
	done := make(chan error, 1)
	go func() { done <- h.recorder.Follow() }()
	t.Cleanup(func() {
		if err := errors.Join(tracer.Close(), <-done, h.finder.Close()); err != nil {
			t.Error(err)
		}
	})
	return h
}

func newUDPReader(t *testing.T) *udphash.Reader {
	t.Helper()
	return opener.OrSkip(t, func() (*udphash.Reader, error) { return udphash.New(nil) })
}

// newTracer traces the namespace as its own.
func newTracer(t *testing.T, ns *kerneltest.NetNS, opts bindtrace.Options) *bindtrace.Tracer {
	t.Helper()
	return opener.OrSkip(t, func() (tracer *bindtrace.Tracer, err error) {
		err = ns.Run(func() error {
			tracer, err = bindtrace.New(opts)
			return err
		})
		return tracer, err
	})
}

func (h *host) recent(t *testing.T) []failures.Recent {
	t.Helper()
	h.updating.Lock()
	defer h.updating.Unlock()
	binds, err := h.recorder.Update(h.sets, nil)
	if err != nil {
		t.Fatal(err)
	}
	return binds.Recent
}

// listeners are those on a port.
func (h *host) listeners(t *testing.T, port uint16) (found []ports.Listener) {
	t.Helper()
	conn, err := netlinkdiag.Dial(&netlinkdiag.Config{NetNS: h.ns.FD()})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	req := netlinkdiag.Request{States: netlinkdiag.States(netlinkdiag.StateListen)}
	req.Ports.Local = append(req.Ports.Local, netlinkdiag.Port(port))
	for s, err := range conn.Dump(t.Context(), req) {
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, ports.NewListener(&s))
	}
	return found
}

// scrape looks for listeners and their owners, as each scrape does.
func (h *host) scrape(t *testing.T, port uint16) {
	t.Helper()
	start := time.Now()
	listeners := h.listeners(t, port)
	var sockets []owner.Socket
	for i := range listeners {
		sockets = append(sockets, owner.Socket{Cookie: listeners[i].Cookie, Inode: listeners[i].Inode})
	}
	h.recorder.Look(uint32(h.ns.Inode()), start, listeners, nil)
	eventually(t, "the owners of all listeners are known", func() bool {
		found, err := h.finder.Find(t.Context(), sockets)
		return err == nil && len(found) == len(sockets)
	})
}

// patience is longer than TIME_WAIT, and than the kernel tries to reach a peer.
const patience = 3 * time.Minute

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	eventuallyEvery(t, 10*time.Millisecond, what, f)
}

func eventuallyEvery(t *testing.T, interval time.Duration, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !f(); time.Sleep(interval) {
		if time.Now().After(deadline) {
			t.Fatalf("not so after %v: %s", patience, what)
		}
	}
}

// A process plays steps.
type process struct {
	*kerneltest.Cmd
	stdin, stdout *os.File
	lines         *bufio.Scanner
	said          map[string]string // by the first word of a line
}

// start starts a program, and waits until it holds, or has ended.
func (h *host) start(t *testing.T, name string, change func(*kerneltest.Cmd), steps ...string) *process {
	t.Helper()
	in, stdin, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{
		h.ns.CommandContext(context.Background(), filepath.Join(h.programs, name), steps...),
		stdin, stdout, bufio.NewScanner(stdout), make(map[string]string),
	}
	p.Env, p.Stdin, p.Stdout, p.Stderr = reexec.RoleEnv(player), in, out, os.Stderr
	if change != nil {
		change(p.Cmd)
	}
	err = p.Start()
	_, _ = in.Close(), out.Close()
	if err != nil {
		t.Fatal(err)
	}
	if !p.ready() {
		if err := p.Wait(); err != nil {
			t.Errorf("%s %q: %v", name, steps, err)
		}
	}
	return p
}

// ready waits until the process waits, or has ended.
func (p *process) ready() bool {
	for p.lines.Scan() {
		word, value, _ := strings.Cut(p.lines.Text(), " ")
		p.said[word] = value
		if word == "ready" {
			return true
		}
	}
	return false
}

// pid of the process that holds the sockets.
func (p *process) pid() int {
	pid, _ := strconv.Atoi(p.said["ready"])
	return pid
}

// stop ends the process and what it started.
func (p *process) stop() {
	_ = p.stdin.Close()
	for p.ready() {
	}
	_, _ = p.Wait(), p.stdout.Close()
}
