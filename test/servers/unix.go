package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// What a server does with the file of a Unix socket that is there before it.
const (
	replaces  = "replaces"
	takesOver = "takes over"
	refuses   = "refuses"
	yes       = "yes"
	no        = "no"
)

// A unixRow is what was measured of a server on a Unix socket.
type unixRow struct {
	title, command     string
	stale, live, stays string
}

func (r unixRow) String() string {
	return fmt.Sprintf("| %s | %s | %s | %s |", r.title, r.stale, r.live, r.stays)
}

// measureUnix runs a server as often as it takes. It listens on the path "s" in its directory.
func measureUnix(ctx context.Context, s server) (unixRow, error) {
	version, err := s.versionText(ctx)
	if err != nil {
		return unixRow{}, err
	}
	r := unixRow{title: s.name + " " + version, command: s.fill("DIR")}
	for _, f := range []func(*trial) error{
		func(t *trial) (err error) { r.stays, err = t.fileAfter(ctx); return err },
		func(t *trial) (err error) { r.stale, err = t.besideStaleFile(ctx); return err },
		func(t *trial) (err error) { r.live, err = t.besideLiveSocket(ctx); return err },
	} {
		if err := s.try(ctx, f); err != nil {
			return unixRow{}, err
		}
	}
	return r, nil
}

func (t *trial) path() string { return filepath.Join(t.dir, "s") }

func (t *trial) fileExists() bool {
	_, err := os.Lstat(t.path())
	return err == nil
}

// answers says whether somebody listens on the path.
func (t *trial) answers(ctx context.Context) bool {
	c, err := t.ns.DialContext(ctx, "unix", t.path())
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

// serves starts the server, and says whether it listens on the path before it ends or the time is over.
func (t *trial) serves(ctx context.Context, listens func() bool) (bool, error) {
	if err := t.launch(ctx); err != nil {
		return false, err
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		select {
		case <-t.end:
			return false, nil
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
		if listens() {
			return true, nil
		}
	}
	return false, nil
}

// serve starts the server, which has to listen.
func (t *trial) serve(ctx context.Context) error {
	ok, err := t.serves(ctx, func() bool { return t.answers(ctx) })
	if err == nil && !ok {
		err = errors.New("it does not listen")
	}
	if err != nil {
		return fmt.Errorf("%w; it said\n%s", err, t.log)
	}
	time.Sleep(500 * time.Millisecond) // it handles SIGTERM, if it does
	return nil
}

// fileAfter says whether the file is there after a SIGTERM.
func (t *trial) fileAfter(ctx context.Context) (string, error) {
	if err := t.serve(ctx); err != nil {
		return "", err
	}
	if err := t.stop(ctx, unix.SIGTERM); err != nil {
		return "", err
	}
	if t.fileExists() {
		return yes, nil
	}
	return no, nil
}

// besideStaleFile says what the server does with the file of one that was killed.
func (t *trial) besideStaleFile(ctx context.Context) (string, error) {
	if err := t.serve(ctx); err != nil {
		return "", err
	}
	if err := t.stop(ctx, unix.SIGKILL); err != nil {
		return "", err
	}
	if !t.fileExists() {
		return "", errors.New("no file is left after SIGKILL")
	}
	ok, err := t.serves(ctx, func() bool { return t.answers(ctx) })
	if err != nil {
		return "", err
	}
	if !ok {
		return "**" + refuses + "**", nil
	}
	return replaces, nil
}

// besideLiveSocket says what the server does with a path on which another program listens.
func (t *trial) besideLiveSocket(ctx context.Context) (string, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", t.path())
	if err != nil {
		return "", fmt.Errorf("listen: %w", err)
	}
	defer l.Close()
	go acceptAll(l)
	before, err := os.Lstat(t.path())
	if err != nil {
		return "", err
	}
	// The file of a socket that lives keeps its inode, so that no other file gets it.
	taken := func() bool {
		now, err := os.Lstat(t.path())
		return err == nil && !os.SameFile(before, now) && t.answers(ctx)
	}
	ok, err := t.serves(ctx, taken)
	switch {
	case err != nil:
		return "", err
	case ok:
		return takesOver, nil
	default:
		return refuses, nil
	}
}

// acceptAll accepts connections, and answers nothing.
func acceptAll(l net.Listener) {
	var open []net.Conn
	defer func() {
		for _, c := range open {
			_ = c.Close()
		}
	}()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		open = append(open, c)
	}
}
