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
	Image   string // path of vmlinuz
	modules string // path of lib/modules/RELEASE
}

// Find returns the kernel for name: a directory into which a package was
// unpacked (it has a slash), or a series such as 6.12, which apt resolves.
func Find(ctx context.Context, name, cache string) (Kernel, error) {
	dir := name
	if !strings.Contains(name, "/") {
		var err error
		if dir, err = fetchKernel(ctx, name, cache); err != nil {
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
	// Where /usr is merged the package says usr/lib.
	for _, lib := range []string{"lib", "usr/lib"} {
		k.modules = filepath.Join(dir, lib, "modules", release)
		if _, err = os.Stat(k.modules); err == nil {
			return k, nil
		}
	}
	return Kernel{}, err
}

// aptPackage is a package file as apt-get --print-uris describes it.
type aptPackage struct {
	name   string
	file   string
	sha256 string
}

// fetchKernel unpacks the newest package of a series below cache and returns
// its directory. Runners that share a cache wait for each other.
func fetchKernel(ctx context.Context, series, cache string) (string, error) {
	pkg, err := resolvePackage(ctx, series)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(ctx, filepath.Join(cache, "lock"))
	if err != nil {
		return "", err
	}
	defer func() { _ = unlock() }()

	// The name has the digest that apt states for the package. The directory
	// appears only when it is complete.
	dir := filepath.Join(cache, pkg.name+"_"+pkg.sha256[:16])
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := unpack(ctx, pkg, dir); err != nil {
		return "", err
	}
	return dir, removeOlder(cache, series, dir)
}

// packagePattern matches the names of a series' cloud kernels, without the
// unsigned ones, the debug symbols and the meta package.
func packagePattern(series string) *regexp.Regexp {
	return regexp.MustCompile(`^linux-image-` + regexp.QuoteMeta(series) + `\.[0-9][0-9a-z.+~-]*-cloud-amd64$`)
}

// newestPackage picks the latest of a series.
func newestPackage(names []string, series string) (string, bool) {
	pattern := packagePattern(series)
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

func resolvePackage(ctx context.Context, series string) (aptPackage, error) {
	names, err := command.Output(ctx, "", "apt-cache", "pkgnames", "linux-image-"+series)
	if err != nil {
		return aptPackage{}, err
	}
	name, ok := newestPackage(strings.Fields(string(names)), series)
	if !ok {
		return aptPackage{}, fmt.Errorf("apt knows no package linux-image-%s.*-cloud-amd64: run apt-get update, or add a Debian release that has it", series)
	}
	uris, err := command.Output(ctx, "", "apt-get", "download", "--print-uris", name)
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
func unpack(ctx context.Context, pkg aptPackage, dir string) error {
	// All runners use this name, so the next one removes what a killed one left.
	tmp := filepath.Join(filepath.Dir(dir), "unpacking")
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	// The sandbox user _apt, to which root's apt changes, cannot write here.
	args := []string{"download", pkg.name}
	if os.Geteuid() == 0 {
		args = append([]string{"-o", "APT::Sandbox::User=root"}, args...)
	}
	if _, err := command.Output(ctx, tmp, "apt-get", args...); err != nil {
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
func removeOlder(cache, series, keep string) error {
	entries, err := os.ReadDir(cache)
	if err != nil {
		return err
	}
	pattern := packagePattern(series)
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
