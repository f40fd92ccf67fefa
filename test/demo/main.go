package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
)

// inside marks the process that runs in the namespace.
const inside = "SOCKSTATE_DEMO_INSIDE"

// limit is for a demo that hangs.
const limit = 30 * time.Second

func main() {
	// Pdeathsig is sent when the thread that forked ends.
	runtime.LockOSThread()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	err := run(ctx, os.Args[1:], os.Stdout)
	cancel()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	exporter := "./sockstate_exporter"
	if len(args) > 0 {
		exporter = args[0]
	}
	exporter, err := filepath.Abs(exporter)
	if err != nil {
		return err
	}
	if _, err := exec.LookPath(exporter); err != nil {
		return fmt.Errorf("no exporter to show: %w (`make demo` builds it)", err)
	}
	if os.Getenv(inside) == "" {
		return enter(ctx, exporter)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return tell(ctx, exporter, out)
}

// enter runs the demo once more, in a network namespace of its own.
func enter(ctx context.Context, exporter string) error {
	root := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	user := &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	var err error
	for _, attr := range []*syscall.SysProcAttr{root, user} {
		cmd := exec.CommandContext(ctx, "/proc/self/exe", exporter)
		cmd.Env = append(os.Environ(), inside+"=1")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.SysProcAttr = attr
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
		if err = cmd.Start(); err == nil {
			return cmd.Wait()
		}
		if !errors.Is(err, syscall.EPERM) {
			break
		}
	}
	return fmt.Errorf("needs root, or a kernel that lets ordinary users have user namespaces: %w", err)
}
