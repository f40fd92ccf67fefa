package launch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
)

const (
	// Address is where the exporter listens by default.
	Address = "127.0.0.1:10048"

	// Patience is how long a condition may take to come true on a busy machine.
	Patience = 3 * time.Minute

	// Path is the exporter, for the process that [Exporter.Start] starts: a shell or a
	// test binary in a role may run it.
	Path = "/proc/self/fd/9"
	fd   = 9
)

// An Exporter is a process in a network namespace. Fields may be changed before it starts.
type Exporter struct {
	Cmd     *kerneltest.Cmd
	Log     *kerneltest.Log // its output
	Client  *http.Client    // in its namespace
	Address string
	Binary  *os.File // what [Path] is, if anything
}

// New prepares the exporter on [Address].
func New(t testing.TB, ns *kerneltest.NetNS, args ...string) *Exporter {
	t.Helper()
	return At(t, ns, Address, args...)
}

// At prepares the exporter on an address.
func At(t testing.TB, ns *kerneltest.NetNS, address string, args ...string) *Exporter {
	t.Helper()
	cmd := ns.Command(t, Path, append([]string{"--web.listen-address=" + address}, args...)...)
	cmd.Args[0] = "sockstate_exporter"
	e := Of(t, ns, address, cmd)
	e.Binary = Binary(t)
	return e
}

// Of prepares a command that becomes the exporter, on an address.
func Of(t testing.TB, ns *kerneltest.NetNS, address string, cmd *kerneltest.Cmd) *Exporter {
	t.Helper()
	e := &Exporter{
		Cmd:     cmd,
		Log:     new(kerneltest.Log),
		Client:  &http.Client{Timeout: Patience, Transport: &http.Transport{DialContext: ns.DialContext}},
		Address: address,
	}
	cmd.Stdout, cmd.Stderr = e.Log, e.Log
	t.Cleanup(e.Client.CloseIdleConnections)
	return e
}

// Start starts the process, and waits for nothing.
func (e *Exporter) Start(t testing.TB) {
	t.Helper()
	e.prepare(t)
	if err := e.Cmd.Start(); err != nil {
		t.Fatal(err)
	}
}

// Wait starts the process, waits until it ends and returns its exit status.
func (e *Exporter) Wait(t testing.TB) int {
	t.Helper()
	e.Start(t)
	_ = e.Cmd.Wait()
	return e.Cmd.ProcessState.ExitCode()
}

// prepare gives the process the binary, as descriptor 9.
func (e *Exporter) prepare(t testing.TB) {
	t.Helper()
	if e.Binary == nil {
		return
	}
	files := make([]*os.File, fd-2)
	if n := copy(files, e.Cmd.ExtraFiles); n == len(files) {
		t.Fatalf("%d files to inherit, want fewer than %d", len(e.Cmd.ExtraFiles), n)
	}
	files[fd-3] = e.Binary
	e.Cmd.ExtraFiles = files
}

// Run starts the process and waits until the exporter is ready.
func (e *Exporter) Run(t testing.TB) {
	t.Helper()
	e.RunUntil(t, "/-/ready")
}

// RunUntil starts the process and waits until it has the page.
func (e *Exporter) RunUntil(t testing.TB, page string) {
	t.Helper()
	e.Start(t)
	e.Await(t, page)
}

// Await waits until a process that was started has the page.
func (e *Exporter) Await(t testing.TB, page string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	if err := Await(ctx, e.Client, "http://"+e.Address+page, e.running); err != nil {
		t.Fatalf("the exporter is not ready: %v\n%s", err, e.Log)
	}
}

// running is an error when the process has ended. It leaves it to Wait to reap it.
func (e *Exporter) running() error {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PID, e.Cmd.Process.Pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	if err != nil || info.Signo != 0 {
		return errors.New("it ended")
	}
	return nil
}

// Stop kills the process and waits for it.
func (e *Exporter) Stop() { e.Cmd.Kill() }

// TryGet asks for a page.
func (e *Exporter) TryGet(path string) (status int, body string, err error) {
	return Get(context.Background(), e.Client, "http://"+e.Address+path)
}

// Get returns a page that there must be.
func (e *Exporter) Get(t testing.TB, path string) string {
	t.Helper()
	status, body, err := e.TryGet(path)
	if err != nil || status != http.StatusOK {
		t.Fatalf("GET %s: status %d, %v\n%s%s", path, status, err, body, e.Log)
	}
	return body
}

// Await asks for a page until there is one, as long as running returns nil.
func Await(ctx context.Context, client *http.Client, url string, running func() error) error {
	for {
		status, _, err := Get(ctx, client, url)
		if err == nil && status == http.StatusOK {
			return nil
		}
		if ended := running(); ended != nil {
			return ended
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("status %d: %w", status, errors.Join(ctx.Err(), err))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Get asks for a page.
func Get(ctx context.Context, client *http.Client, url string) (status int, body string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return 0, "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}
