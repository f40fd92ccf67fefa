package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"sockstate_exporter/test/kernelmatrix/command"
)

const initPackage = "sockstate_exporter/test/kernelmatrix/guestinit"

// goPackage is what go list says of a package.
type goPackage struct {
	ImportPath   string
	Dir          string
	TestGoFiles  []string
	XTestGoFiles []string
	Module       struct{ Dir string }
}

// testBinary is a package's tests, built for the guest.
type testBinary struct {
	pkg       string // import path
	dir       string // on this host
	rel       string // dir, relative to the module
	file      string
	tests     []string // what has to run: top-level tests, or benchmarks
	sel       selection
	noModules bool // runs before any module is loaded
}

// selection is the choice of tests.
type selection struct {
	run       string
	bench     string
	benchtime string
}

// complete says whether it chooses all tests.
func (s selection) complete() bool { return s.run == "" && s.bench == "" }

// pattern chooses top-level tests; -test.list knows no subtests.
func (s selection) pattern() string {
	if s.bench != "" {
		return firstElement(s.bench)
	}
	return firstElement(s.run)
}

func firstElement(pattern string) string {
	first, _, _ := strings.Cut(pattern, "/")
	if first == "" {
		return "."
	}
	return first
}

// wants tells tests, examples and fuzz targets from benchmarks.
func (s selection) wants(name string) bool {
	return strings.HasPrefix(name, "Benchmark") == (s.bench != "")
}

// buildInit builds the guest's init from the module of the working directory,
// which is not necessarily the one under test.
func buildInit(ctx context.Context, arch, file string) error {
	if _, err := goTool(ctx, arch, ".", "build", "-ldflags=-s -w", "-o", file, initPackage); err != nil {
		return fmt.Errorf("build the guest's init (run this in the module it belongs to; -C names another to test): %w", err)
	}
	return nil
}

// buildTests builds the test binaries of the packages in the module at dir for
// arch, and asks them for their tests. For another architecture than this
// machine's, it asks a binary for this machine: both must have the same tests. A
// package that the patterns name outright must have tests; with a selection,
// packages it does not touch are left out.
func buildTests(ctx context.Context, arch, dir, out string, patterns []string, sel selection) ([]testBinary, error) {
	pkgs, err := listPackages(ctx, arch, dir, patterns)
	if err != nil {
		return nil, err
	}
	var built []testBinary
	for _, p := range pkgs {
		b := testBinary{pkg: p.ImportPath, dir: p.Dir, sel: sel}
		if b.rel, err = filepath.Rel(p.Module.Dir, p.Dir); err != nil {
			return nil, err
		}
		if b.file, err = buildTest(ctx, arch, b, out); err != nil {
			return nil, err
		}
		lister := b.file
		if arch != runtime.GOARCH {
			if lister, err = buildTest(ctx, runtime.GOARCH, b, out); err != nil {
				return nil, err
			}
		}
		if b.tests, err = listTests(ctx, b, lister); err != nil {
			return nil, err
		}
		switch {
		case len(b.tests) > 0:
			built = append(built, b)
		case sel.complete():
			return nil, fmt.Errorf("package %s has test files but no tests", b.pkg)
		}
	}
	if len(built) == 0 {
		return nil, fmt.Errorf("no test matches in %s", strings.Join(patterns, " "))
	}
	return built, nil
}

func buildTest(ctx context.Context, arch string, b testBinary, out string) (file string, err error) {
	file = filepath.Join(out, strings.ReplaceAll(b.pkg, "/", "_")+"."+arch)
	if _, err := goTool(ctx, arch, b.dir, "test", "-c", "-ldflags=-s -w", "-o", file, "."); err != nil {
		return "", fmt.Errorf("build tests: %w", err)
	}
	return file, nil
}

func listPackages(ctx context.Context, arch, dir string, patterns []string) ([]goPackage, error) {
	out, err := goTool(ctx, arch, dir, append([]string{"list", "-json=ImportPath,Dir,TestGoFiles,XTestGoFiles,Module", "--"}, patterns...)...)
	if err != nil {
		return nil, fmt.Errorf("list packages: %w", err)
	}
	var pkgs []goPackage
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("decode go list: %w", err)
		}
		pkgs = append(pkgs, p)
	}
	wild := slices.ContainsFunc(patterns, func(p string) bool { return strings.Contains(p, "...") })
	return withTests(pkgs, wild)
}

// withTests leaves out packages without tests where a wildcard may have
// brought them.
func withTests(pkgs []goPackage, wild bool) ([]goPackage, error) {
	var kept []goPackage
	for _, p := range pkgs {
		switch {
		case len(p.TestGoFiles)+len(p.XTestGoFiles) > 0:
			kept = append(kept, p)
		case !wild:
			return nil, fmt.Errorf("package %s has no test files", p.ImportPath)
		}
	}
	if len(kept) == 0 {
		return nil, errors.New("no package with tests")
	}
	return kept, nil
}

func listTests(ctx context.Context, b testBinary, file string) ([]string, error) {
	out, err := command.Output(ctx, b.dir, file, "-test.list="+b.sel.pattern())
	if err != nil {
		return nil, fmt.Errorf("list tests of %s: %w", b.pkg, err)
	}
	var names []string
	for name := range strings.FieldsSeq(string(out)) {
		if testName.MatchString(name) && b.sel.wants(name) {
			names = append(names, name)
		}
	}
	return names, nil
}

var testName = regexp.MustCompile(`^(Test|Benchmark|Fuzz|Example)`)

// goTool runs the go command for a guest, in which there is no libc.
func goTool(ctx context.Context, arch, dir string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	return command.Run(ctx, cmd)
}
