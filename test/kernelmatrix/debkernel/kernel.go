package debkernel

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"sockstate_exporter/test/kernelmatrix/command"
)

// Kernel is an unpacked Debian kernel package.
type Kernel struct {
	Name    string // as asked for: a series, or a directory
	Release string // utsname.release
	Arch    string // as Go and Debian call it: amd64 or arm64
	Fexit   bool   // the kernel can attach fentry and fexit programs
	Image   string // path of vmlinuz
	modules string // path of lib/modules/RELEASE
}

// Find returns the kernel for name: a directory into which a package was
// unpacked (it has a slash), or a series such as 6.12 or 6.12:arm64, which apt
// resolves. Without an architecture it is amd64.
func Find(ctx context.Context, name, cache string) (Kernel, error) {
	dir := name
	if !strings.Contains(name, "/") {
		series, arch, ok := strings.Cut(name, ":")
		if !ok {
			arch = "amd64"
		}
		if arch != "amd64" && arch != "arm64" {
			return Kernel{}, fmt.Errorf("kernel %s: unknown architecture %q, want amd64 or arm64", name, arch)
		}
		var err error
		if dir, err = fetchKernel(ctx, series, arch, cache); err != nil {
			return Kernel{}, fmt.Errorf("kernel %s: %w", name, err)
		}
	}
	k, err := open(dir)
	if err != nil {
		return Kernel{}, fmt.Errorf("kernel %s: %w", name, err)
	}
	k.Name = name
	return k, nil
}

func open(dir string) (Kernel, error) {
	images, err := filepath.Glob(filepath.Join(dir, "boot", "vmlinuz-*"))
	if err != nil {
		return Kernel{}, err
	}
	if len(images) != 1 {
		return Kernel{}, fmt.Errorf("%d files boot/vmlinuz-* in %s, want 1", len(images), dir)
	}
	release := strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	k := Kernel{Release: release, Image: images[0]}
	options, err := os.ReadFile(filepath.Join(dir, "boot", "config-"+release))
	if err != nil {
		return Kernel{}, err
	}
	if k.Arch = archOf(options); k.Arch == "" {
		return Kernel{}, fmt.Errorf("kernel in %s is neither of amd64 nor of arm64", dir)
	}
	// What BPF trampolines are attached with.
	k.Fexit = enabled(options, "CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS")
	// Where /usr is merged the package says usr/lib.
	for _, lib := range []string{"lib", "usr/lib"} {
		k.modules = filepath.Join(dir, lib, "modules", release)
		if _, err = os.Stat(k.modules); err == nil {
			return k, nil
		}
	}
	return Kernel{}, err
}

// archOf reads the architecture from a kernel's configuration.
func archOf(options []byte) string {
	switch {
	case enabled(options, "CONFIG_X86_64"):
		return "amd64"
	case enabled(options, "CONFIG_ARM64"):
		return "arm64"
	}
	return ""
}

func enabled(options []byte, name string) bool {
	return slices.Contains(strings.Split(string(options), "\n"), name+"=y")
}

// aptPackage is a package file as apt-get --print-uris describes it.
type aptPackage struct {
	name   string
	file   string
	sha256 string
}

// fetchKernel unpacks the newest package of a series below cache and returns
// its directory. Runners that share a cache wait for each other.
func fetchKernel(ctx context.Context, series, arch, cache string) (string, error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(ctx, filepath.Join(cache, "lock"))
	if err != nil {
		return "", err
	}
	defer func() { _ = unlock() }()
	a, err := newApt(ctx, arch, cache)
	if err != nil {
		return "", err
	}
	pkg, err := a.resolve(ctx, series)
	if err != nil {
		return "", err
	}

	// The name has the digest that apt states for the package. The directory
	// appears only when it is complete.
	dir := filepath.Join(cache, pkg.name+"_"+pkg.sha256[:16])
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := a.unpack(ctx, pkg, dir); err != nil {
		return "", err
	}
	return dir, removeOlder(cache, packagePattern(series, arch), dir)
}

// packagePattern matches the names of a series' cloud kernels, without the
// unsigned ones, the debug symbols and the meta package.
func packagePattern(series, arch string) *regexp.Regexp {
	return regexp.MustCompile(`^linux-image-` + regexp.QuoteMeta(series) + `\.[0-9][0-9a-z.+~-]*-cloud-` + regexp.QuoteMeta(arch) + `$`)
}

// newestPackage picks the latest of those that match.
func newestPackage(names []string, pattern *regexp.Regexp) (string, bool) {
	names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !pattern.MatchString(name) })
	if len(names) == 0 {
		return "", false
	}
	return slices.MaxFunc(names, compareVersions), true
}

var digits = regexp.MustCompile(`[0-9]+`)

// compareVersions orders names that differ in their numbers only.
func compareVersions(a, b string) int {
	return slices.CompareFunc(digits.FindAllString(a, -1), digits.FindAllString(b, -1), func(x, y string) int {
		m, _ := strconv.ParseUint(x, 10, 64)
		n, _ := strconv.ParseUint(y, 10, 64)
		switch {
		case m < n:
			return -1
		case m > n:
			return 1
		}
		return 0
	})
}

// apt asks Debian's apt for packages of one architecture.
type apt struct {
	arch    string
	options []string
}

// newApt returns the machine's apt, or one with lists of its own for another
// architecture, since the machine's dpkg is not to learn of it. These lists are
// fetched when the machine's are newer. The caller holds the cache's lock.
func newApt(ctx context.Context, arch, cache string) (apt, error) {
	a := apt{arch: arch}
	// The sandbox user _apt, to which root's apt changes, cannot write to the cache.
	if os.Geteuid() == 0 {
		a.options = []string{"-o", "APT::Sandbox::User=root"}
	}
	if arch == runtime.GOARCH {
		return a, nil
	}
	dir := filepath.Join(cache, "apt-"+arch)
	lists := filepath.Join(dir, "lists")
	for _, d := range []string{filepath.Join(lists, "partial"), filepath.Join(dir, "archives", "partial")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return a, err
		}
	}
	for _, o := range []string{
		"APT::Architecture=" + arch, "APT::Architectures=" + arch,
		"Dir::State::lists=" + lists, "Dir::State::status=/dev/null", "Dir::Cache=" + dir,
	} {
		a.options = append(a.options, "-o", o)
	}
	return a, a.update(ctx, filepath.Join(dir, "updated"))
}

// update fetches the lists, unless it did so after the machine's last update,
// which left its traces in partial.
func (a apt) update(ctx context.Context, stamp string) error {
	if newer(stamp, "/var/lib/apt/lists/partial") {
		return nil
	}
	if _, err := a.run(ctx, "", "apt-get", "update"); err != nil {
		return fmt.Errorf("apt's lists for %s: %w (is there a network?)", a.arch, err)
	}
	return os.WriteFile(stamp, nil, 0o644)
}

// newer says whether file is there, and other is older or not there.
func newer(file, other string) bool {
	f, err := os.Stat(file)
	if err != nil {
		return false
	}
	o, err := os.Stat(other)
	return err != nil || f.ModTime().After(o.ModTime())
}

func (a apt) run(ctx context.Context, dir, program string, args ...string) ([]byte, error) {
	return command.Output(ctx, dir, program, slices.Concat(a.options, args)...)
}

func (a apt) resolve(ctx context.Context, series string) (aptPackage, error) {
	names, err := a.run(ctx, "", "apt-cache", "pkgnames", "linux-image-"+series)
	if err != nil {
		return aptPackage{}, err
	}
	name, ok := newestPackage(strings.Fields(string(names)), packagePattern(series, a.arch))
	if !ok {
		return aptPackage{}, fmt.Errorf("apt knows no package linux-image-%s.*-cloud-%s: run apt-get update, or add a Debian release that has it", series, a.arch)
	}
	uris, err := a.run(ctx, "", "apt-get", "download", "--print-uris", name)
	if err != nil {
		return aptPackage{}, err
	}
	pkg, err := parseURI(string(uris))
	if err != nil {
		return aptPackage{}, err
	}
	pkg.name = name
	return pkg, nil
}

// parseURI reads a line of apt-get --print-uris: 'URI' FILE SIZE SHA256:HEX.
func parseURI(line string) (aptPackage, error) {
	f := strings.Fields(line)
	if len(f) == 4 {
		sum, ok := strings.CutPrefix(f[3], "SHA256:")
		if b, err := hex.DecodeString(sum); ok && err == nil && len(b) == sha256.Size {
			return aptPackage{file: filepath.Base(f[1]), sha256: sum}, nil
		}
	}
	return aptPackage{}, fmt.Errorf("apt-get --print-uris says %q, want URI, file, size and SHA256", strings.TrimSpace(line))
}

// unpack downloads pkg and unpacks it to dir, which appears only when it is complete.
// The caller holds the cache's lock.
func (a apt) unpack(ctx context.Context, pkg aptPackage, dir string) error {
	// All runners use this name, so the next one removes what a killed one left.
	tmp := filepath.Join(filepath.Dir(dir), "unpacking")
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	if _, err := a.run(ctx, tmp, "apt-get", "download", pkg.name); err != nil {
		return fmt.Errorf("download %s: %w (is there a network?)", pkg.name, err)
	}
	deb := filepath.Join(tmp, pkg.file)
	if err := verify(deb, pkg.sha256); err != nil {
		return err
	}
	root := filepath.Join(tmp, "root")
	if _, err := command.Output(ctx, tmp, "dpkg-deb", "-x", deb, root); err != nil {
		return fmt.Errorf("unpack %s: %w", pkg.file, err)
	}
	return os.Rename(root, dir)
}

func verify(file, want string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		return fmt.Errorf("%s has SHA256 %s, apt says %s", filepath.Base(file), got, want)
	}
	return nil
}

// removeOlder drops earlier packages of the series from the cache.
func removeOlder(cache string, pattern *regexp.Regexp, keep string) error {
	entries, err := os.ReadDir(cache)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name, _, _ := strings.Cut(e.Name(), "_")
		if dir := filepath.Join(cache, e.Name()); pattern.MatchString(name) && dir != keep {
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
		}
	}
	return nil
}

func lock(ctx context.Context, path string) (unlock func() error, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	locked := make(chan error, 1)
	go func() { locked <- unix.Flock(int(f.Fd()), unix.LOCK_EX) }()
	select {
	case err = <-locked:
	case <-ctx.Done():
		// The runner is about to end, and the lock with it.
		return nil, fmt.Errorf("wait for %s: %w", path, context.Cause(ctx))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return f.Close, nil
}
