package kerneltest

import (
	"bytes"
	"context"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Cmd is an [exec.Cmd] whose process runs in a network namespace, and is killed
// when this process dies. Start the process only with the methods that are
// defined here. Wait and the pipes work as in exec.Cmd.
type Cmd struct {
	*exec.Cmd
	ns *NetNS
}

// CommandContext prepares a command that runs in the namespace. The process is
// killed when ctx ends. The caller waits for it.
func (n *NetNS) CommandContext(ctx context.Context, name string, args ...string) *Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = new(syscall.SysProcAttr)
	return &Cmd{Cmd: cmd, ns: n}
}

// Command prepares a command that runs in the namespace. When the test ends, the
// process is killed and waited for.
func (n *NetNS) Command(t testing.TB, name string, args ...string) *Cmd {
	t.Helper()
	c := n.CommandContext(context.Background(), name, args...)
	t.Cleanup(c.Kill)
	return c
}

// Output runs a command in the namespace and returns its standard output. The
// test fails when the command fails.
func (n *NetNS) Output(t testing.TB, name string, args ...string) string {
	t.Helper()
	cmd := n.Command(t, name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("run %s %q: %v\n%s", name, args, err, stderr.String())
	}
	return string(out)
}

// As makes the process run with the user and group id, and no other groups. It
// needs [RequireRoot].
func (c *Cmd) As(uid, gid uint32) *Cmd {
	c.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: gid}
	return c
}

// Start starts the process in the namespace.
func (c *Cmd) Start() error {
	c.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started := make(chan error, 1)
	go func() {
		err := c.ns.Run(func() error {
			err := c.Cmd.Start()
			started <- err
			if err == nil {
				// Pdeathsig is sent when the thread that forked ends, so the
				// thread has to outlive the process.
				waitExit(c.Process.Pid)
			}
			return nil
		})
		if err != nil {
			started <- err
		}
	}()
	return <-started
}

// Run starts the process and waits for it.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output is [exec.Cmd.Output], in the namespace. It does not keep the standard
// error.
func (c *Cmd) Output() ([]byte, error) {
	var out bytes.Buffer
	c.Stdout = &out
	err := c.Run()
	return out.Bytes(), err
}

// CombinedOutput is [exec.Cmd.CombinedOutput], in the namespace.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.Bytes(), err
}

// Kill ends the process, if it runs, and waits for it.
func (c *Cmd) Kill() {
	if c.Process == nil || c.ProcessState != nil {
		return
	}
	_ = c.Process.Kill()
	_ = c.Wait()
}

// waitExit waits until the child has ended. It does not reap it: Wait does.
func waitExit(pid int) {
	for unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
}
