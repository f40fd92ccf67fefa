package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/netlinkdiag"
)

// port is where every server listens: each has a network namespace.
const port = 7000

// patience is for a server to do what it is waited for.
const patience = 15 * time.Second

// settled is when a server has decided what to do about a port that is taken. nginx tries for 3 s,
// others for 20 s, and listen on the other half meanwhile.
const settled = 25 * time.Second

// What can happen.
const (
	works    = "works"
	fails    = "**fails**"
	notTried = "not tried"
	stays    = "stays"
	waits    = "waits"
	quits    = "quits"
)

// A row is what was measured.
type row struct {
	title, command       string
	listeners            []*listener
	restart              string
	ipv4Taken, ipv6Taken string
}

func (r row) String() string {
	column := func(f func(*listener) string) string {
		var values []string
		for _, l := range r.listeners {
			if v := f(l); !slices.Contains(values, v) {
				values = append(values, v)
			}
		}
		return strings.Join(values, ", ")
	}
	return "| " + strings.Join([]string{
		r.title,
		column((*listener).String),
		column(func(l *listener) string { return strconv.Itoa(l.reuseAddr) }),
		column(func(l *listener) string { return strconv.Itoa(l.reusePort) }),
		column(func(l *listener) string { return strconv.FormatUint(uint64(l.backlog), 10) }),
		r.restart, r.ipv4Taken, r.ipv6Taken,
	}, " | ") + " |"
}

// A trial is a server that runs in a namespace.
type trial struct {
	server
	ns  *kerneltest.NetNS
	dir string
	cmd *kerneltest.Cmd
	end chan struct{} // closed when the command has ended
	log *kerneltest.Log
}

// measure runs a server as often as it takes.
func measure(ctx context.Context, s server) (row, error) {
	version, err := s.versionText(ctx)
	if err != nil {
		return row{}, err
	}
	r := row{title: s.name + " " + version, command: s.fill("DIR")}
	err = s.try(ctx, func(t *trial) error {
		if r.listeners, err = t.start(ctx); err != nil {
			return err
		}
		r.restart, err = t.restart(ctx, r.listeners)
		return err
	})
	if err != nil {
		return row{}, err
	}
	if apart(r.listeners) {
		for taken, result := range map[string]*string{"0.0.0.0": &r.ipv4Taken, "::": &r.ipv6Taken} {
			err := s.try(ctx, func(t *trial) (err error) {
				*result, err = t.startBeside(ctx, netip.MustParseAddr(taken))
				return err
			})
			if err != nil {
				return row{}, err
			}
		}
	}
	return r, nil
}

// apart says whether the server has a socket for each address family.
func apart(all []*listener) bool {
	return slices.ContainsFunc(all, func(l *listener) bool { return l.address == netip.IPv4Unspecified() }) &&
		slices.ContainsFunc(all, func(l *listener) bool { return l.address == netip.IPv6Unspecified() && l.v6only })
}

// try gives f a server in a namespace of its own, of which nothing is left.
func (s server) try(ctx context.Context, f func(*trial) error) error {
	ns, err := kerneltest.Open()
	if err != nil {
		return err
	}
	defer ns.Close()
	dir, err := os.MkdirTemp("", "servers")
	if err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	t := &trial{server: s, ns: ns, dir: dir, log: new(kerneltest.Log)}
	if err := t.prepare(ctx); err != nil {
		return err
	}
	err = f(t)
	return errors.Join(err, t.stop(ctx, unix.SIGKILL))
}

// prepare writes the files of the server.
func (t *trial) prepare(ctx context.Context) error {
	for name, content := range t.files {
		if err := os.WriteFile(filepath.Join(t.dir, name), []byte(t.replace(content, t.dir)), 0o600); err != nil {
			return fmt.Errorf("write its configuration: %w", err)
		}
	}
	if t.user != "" {
		u, err := user.Lookup(t.user)
		if err != nil {
			return fmt.Errorf("find its user: %w", err)
		}
		uid, err := strconv.Atoi(u.Uid)
		if err != nil {
			return fmt.Errorf("uid of %s: %w", t.user, err)
		}
		if err := os.Chown(t.dir, uid, -1); err != nil {
			return fmt.Errorf("change owner: %w", err)
		}
	}
	for _, command := range t.setup {
		args := t.withUser(t.arguments(command, t.dir))
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Dir = t.dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("prepare with %q: %w\n%s", args, err, out)
		}
	}
	return nil
}

// launch starts the command.
func (t *trial) launch(ctx context.Context) error {
	args := t.withUser(t.arguments(t.command, t.dir))
	t.cmd = t.ns.CommandContext(ctx, args[0], args[1:]...)
	t.cmd.Dir = t.dir
	t.cmd.Stdout, t.cmd.Stderr = t.log, t.log
	t.cmd.WaitDelay = time.Second // its children may keep the pipe
	if err := t.cmd.Start(); err != nil {
		return fmt.Errorf("start %q: %w", args, err)
	}
	end := make(chan struct{})
	t.end = end
	cmd := t.cmd
	go func() {
		_ = cmd.Wait() // how it ended is not asked
		close(end)
	}()
	return nil
}

// start starts the server and waits until it listens.
func (t *trial) start(ctx context.Context) ([]*listener, error) {
	if err := t.launch(ctx); err != nil {
		return nil, err
	}
	all, err := t.listening(ctx)
	if err == nil && len(all) == 0 {
		err = errors.New("it does not listen")
	}
	if err != nil {
		return nil, fmt.Errorf("%w; it said\n%s", err, t.log)
	}
	return all, nil
}

// listening waits for listeners of the server. There are none if it ends before.
func (t *trial) listening(ctx context.Context) ([]*listener, error) {
	deadline := time.Now().Add(patience)
	for {
		all, err := listeners(ctx, t.ns)
		if err != nil {
			return nil, err
		}
		if len(all) > 0 {
			// Others may follow the first.
			time.Sleep(500 * time.Millisecond)
			return listeners(ctx, t.ns)
		}
		select {
		case <-t.end:
			return nil, nil
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return nil, nil
		}
	}
}

// stop ends all processes in the namespace and waits for them.
func (t *trial) stop(ctx context.Context, signal syscall.Signal) error {
	deadline := time.Now().Add(patience)
	for {
		pids := processes(t.ns)
		if len(pids) == 0 {
			break
		}
		if time.Now().After(deadline) {
			signal = unix.SIGKILL
		}
		for _, pid := range pids {
			if err := unix.Kill(pid, signal); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("end process %d: %w", pid, err)
			}
		}
		time.Sleep(50 * time.Millisecond)
		if ctx.Err() != nil {
			signal = unix.SIGKILL
		}
	}
	if t.end != nil {
		<-t.end
	}
	return nil
}

// restart says whether the server can be started again right after it closed a connection.
func (t *trial) restart(ctx context.Context, before []*listener) (string, error) {
	host := "127.0.0.1"
	if a := before[0].address; a.Is6() && before[0].v6only {
		host = "::1"
	}
	client, err := t.ns.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return "", fmt.Errorf("connect: %w", err)
	}
	time.Sleep(200 * time.Millisecond) // it accepts
	if err := t.stop(ctx, unix.SIGTERM); err != nil {
		return "", err
	}
	// With something unread, close() would reset the connection.
	_ = client.SetReadDeadline(time.Now().Add(time.Second))
	_, _ = io.Copy(io.Discard, client)
	if err := client.Close(); err != nil {
		return "", fmt.Errorf("close: %w", err)
	}
	left, err := dump(ctx, t.ns, netlinkdiag.States(netlinkdiag.StateTimeWait))
	if err != nil {
		return "", err
	}
	if len(left) == 0 {
		return notTried, nil
	}
	if err := t.launch(ctx); err != nil {
		return "", err
	}
	after, err := t.listening(ctx)
	if err != nil {
		return "", err
	}
	if len(after) < len(before) {
		return fails, nil
	}
	return works, nil
}

// startBeside starts the server while this process has the port on the address.
func (t *trial) startBeside(ctx context.Context, taken netip.Addr) (string, error) {
	var o kerneltest.Options
	if taken.Is6() {
		o.V6Only = new(true)
	}
	other, err := t.ns.OpenListener(netip.AddrPortFrom(taken, port), o)
	if err != nil {
		return "", fmt.Errorf("take %v: %w", taken, err)
	}
	defer other.Close()
	if err := t.launch(ctx); err != nil {
		return "", err
	}
	select {
	case <-t.end:
		return quits, nil
	case <-ctx.Done():
		return "", ctx.Err()
	case <-time.After(settled):
	}
	all, err := listeners(ctx, t.ns)
	if err != nil {
		return "", err
	}
	if len(all) == 0 {
		return waits, nil
	}
	return stays, nil
}

var number = regexp.MustCompile(`\d+(\.\d+)+(\w+(\.\w+)*)?`)

// versionText is the first version number that the command writes.
func (s server) versionText(ctx context.Context) (string, error) {
	args := s.arguments(s.version, "")
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	v := number.FindString(string(out))
	if v == "" {
		return "", fmt.Errorf("no version in the output of %q: %w\n%s", args, err, out)
	}
	return v, nil
}

// fill is the command as a line of a shell.
func (s server) fill(dir string) string {
	args := s.arguments(s.command, dir)
	args[0] = filepath.Base(args[0])
	for i, a := range args {
		if a == "" || strings.ContainsAny(a, " ;()'\"$*?&|<>\n") {
			args[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
	}
	return strings.Join(args, " ")
}

func (server) replace(text, dir string) string {
	return strings.NewReplacer("{port}", strconv.Itoa(port), "{dir}", dir).Replace(text)
}

func (s server) arguments(command []string, dir string) []string {
	args := slices.Clone(command)
	for i := range args {
		args[i] = s.replace(args[i], dir)
	}
	return args
}

func (s server) withUser(args []string) []string {
	if s.user == "" {
		return args
	}
	return append([]string{"setpriv", "--reuid=" + s.user, "--regid=" + s.user, "--clear-groups", "--"}, args...)
}
