package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"sockstate_exporter/test/kernelmatrix/debkernel"
	"sockstate_exporter/test/kernelmatrix/guest"
)

// killDelay is how much longer than -test.timeout the init waits.
const killDelay = 15 * time.Second

// etc is what user and host look-ups want of a host.
var etc = map[string]string{
	"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
	"etc/group":  "root:x:0:\nnogroup:x:65534:\n",
	"etc/hosts":  "127.0.0.1 localhost\n::1 localhost\n",
}

// image is the content of a guest's initramfs.
type image struct {
	init    string // path on this host
	plan    guest.Plan
	modules []debkernel.Module
	tests   []testBinary
}

// guestDir is where a package's directory is in the guest: beside those of
// other packages as in the module, so that ../other/testdata can be read.
func guestDir(b testBinary) string {
	return path.Join("/src", filepath.ToSlash(b.rel))
}

func guestBinary(b testBinary) string {
	return path.Join(guestDir(b), path.Base(b.pkg)+".test")
}

// write leaves the archive uncompressed: inflating takes the emulated CPU about
// a second for 30 MB.
func (im image) write(file string) (err error) {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	c := newCPIOWriter(f)
	if err := im.addAll(c); err != nil {
		return err
	}
	return c.close()
}

func (im image) addAll(c *cpioWriter) error {
	plan, err := json.Marshal(im.plan)
	if err != nil {
		return fmt.Errorf("encode plan: %w", err)
	}
	if err := addBytes(c, guest.PlanPath, plan); err != nil {
		return err
	}
	if err := addFile(c, "/init", im.init, modeProgram); err != nil {
		return err
	}
	if err := c.mkdir("root"); err != nil {
		return err
	}
	for name, content := range etc {
		if err := addBytes(c, name, []byte(content)); err != nil {
			return err
		}
	}
	for _, m := range im.modules {
		if err := addBytes(c, path.Join(guest.ModuleDir, m.Name+".ko"), m.Data); err != nil {
			return err
		}
	}
	for _, b := range im.tests {
		if err := addFile(c, guestBinary(b), b.file, modeProgram); err != nil {
			return err
		}
		if err := addTestdata(c, b); err != nil {
			return err
		}
	}
	return nil
}

func addTestdata(c *cpioWriter, b testBinary) error {
	root := filepath.Join(b.dir, "testdata")
	if _, err := os.Stat(root); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return filepath.WalkDir(root, func(file string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := os.Stat(file)
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(b.dir, file)
		if err != nil {
			return err
		}
		mode := uint32(modeFile)
		if info.Mode()&0o100 != 0 {
			mode = modeProgram
		}
		return addFile(c, path.Join(guestDir(b), filepath.ToSlash(rel)), file, mode)
	})
}

// The archive's names are relative to the guest's root.

func addBytes(c *cpioWriter, target string, b []byte) error {
	return c.add(relative(target), modeFile, int64(len(b)), bytes.NewReader(b))
}

func addFile(c *cpioWriter, target, source string, mode uint32) error {
	f, err := os.Open(source)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return c.add(relative(target), mode, info.Size(), f)
}

func relative(target string) string {
	return path.Clean("/" + target)[1:]
}

// makePlan lists what the guest does with the tests.
func makePlan(tests []testBinary, modules []debkernel.Module, skip func(testBinary) string, timeout time.Duration, env []string) guest.Plan {
	plan := guest.Plan{Env: env}
	for _, m := range modules {
		plan.Modules = append(plan.Modules, m.Name)
	}
	for _, b := range tests {
		args := []string{
			guestBinary(b),
			"-test.v=test2json", // marks results so that output cannot pass for them
			"-test.paniconexit0",
			"-test.timeout=" + timeout.String(),
		}
		switch {
		case b.sel.bench != "":
			args = append(args, "-test.run=^$", "-test.bench="+b.sel.bench, "-test.benchtime="+b.sel.benchtime)
		case b.sel.run != "":
			args = append(args, "-test.run="+b.sel.run)
		}
		if s := skip(b); s != "" {
			args = append(args, "-test.skip="+s)
		}
		plan.Runs = append(plan.Runs, guest.Run{Package: b.pkg, Dir: guestDir(b), Args: args, NoModules: b.noModules, KillAfter: timeout + killDelay})
	}
	return plan
}

// guestEnv is the environment of the tests; see the package documentation. short leaves out the tracer's mode that the
// tests on the host and on another architecture take: it is for kernels that refuse the others.
func guestEnv(k debkernel.Kernel, short bool, extra []string) []string {
	var modes []string
	if k.Fexit {
		modes = append(modes, "fexit")
	}
	modes = append(modes, "kprobe")
	if !short || k.Arch != "amd64" {
		modes = append(modes, "tracepoint")
	}
	return append([]string{
		"PATH=/bin",
		"HOME=/root",
		"TMPDIR=/tmp",
		"SOCKSTATE_GUEST=1",
		"SOCKSTATE_REQUIRE_ALL=1",
		"SOCKSTATE_BPF_MODES=" + strings.Join(modes, ","),
	}, extra...)
}
