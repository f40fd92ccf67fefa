package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	ok := runCommand(untilOrphaned(ctx), os.Args[1:])
	stop()
	if !ok {
		os.Exit(1)
	}
}

func runCommand(ctx context.Context, args []string) (ok bool) {
	cfg, err := parseFlags(args)
	if errors.Is(err, flag.ErrHelp) {
		return true
	}
	if err == nil {
		ok, err = run(ctx, cfg)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "kernelmatrix:", err)
	}
	return ok
}

// config is the command line.
type config struct {
	dir         string
	packages    []string
	allPackages bool // none was named
	long        bool
	kernels     []string
	cache       string
	sel         selection
	env         []string
	jobs        int
	bootTimeout time.Duration
	timeout     time.Duration
	verbose     bool
}

func parseFlags(args []string) (config, error) {
	// qemu emulates all CPUs of a guest in one thread.
	cfg := config{jobs: min(runtime.NumCPU(), 2)}
	fs := flag.NewFlagSet("kernelmatrix", flag.ContinueOnError)
	fs.Usage = func() {
		fmt.Fprintf(fs.Output(), "usage: go -C test run ./kernelmatrix [flags] [PACKAGE...]\ndefault packages: %s\n", strings.Join(defaultPackages, " "))
		fs.PrintDefaults()
	}
	fs.StringVar(&cfg.dir, "C", "..", "module `directory` to test")
	fs.StringVar(&cfg.cache, "cache", "", "`directory` for kernels (default: in the user's cache directory)")
	fs.StringVar(&cfg.sel.run, "run", "", "run only tests that match `regexp`")
	fs.BoolVar(&cfg.long, "long", false, "run all tests of the default packages: the slow ones, and on arm64 not only some")
	fs.StringVar(&cfg.sel.bench, "bench", "", "run benchmarks that match `regexp`, and no tests")
	fs.StringVar(&cfg.sel.benchtime, "benchtime", "1s", "as go test -benchtime")
	fs.IntVar(&cfg.jobs, "j", cfg.jobs, "`guests` that run at a time, each on one CPU of the host")
	fs.DurationVar(&cfg.bootTimeout, "boot-timeout", 10*time.Minute, "how long a guest may take to come up")
	fs.DurationVar(&cfg.timeout, "timeout", 30*time.Minute, "how long a package's tests may take")
	fs.BoolVar(&cfg.verbose, "v", false, "print all output, tests' and kernels'")
	kernels := fs.String("kernel", defaultKernels, "series of Debian cloud `kernels`, of amd64 unless :arm64 follows, or directories (with a slash) where such a package is unpacked; comma separated")
	fs.Func("env", "set a `NAME=VALUE` for the tests; may be repeated", func(s string) error {
		cfg.env = append(cfg.env, s)
		return nil
	})
	if err := fs.Parse(args); err != nil {
		return cfg, err
	}
	cfg.kernels = strings.Split(*kernels, ",")
	cfg.packages = fs.Args()
	err := cfg.complete()
	return cfg, err
}

func (cfg *config) complete() error {
	if cfg.jobs < 1 {
		return fmt.Errorf("-j=%d: want 1 or more", cfg.jobs)
	}
	if cfg.allPackages = len(cfg.packages) == 0; cfg.allPackages {
		cfg.packages = defaultPackages
	}
	if cfg.cache != "" {
		return nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return fmt.Errorf("no -cache given: %w", err)
	}
	cfg.cache = filepath.Join(cache, "sockstate_exporter", "kernels")
	return nil
}

// short says that what takes long does not run.
func (cfg *config) short() bool { return cfg.allPackages && cfg.sel.complete() && !cfg.long }

// suites are what runs on an architecture.
func (cfg *config) suites(arch string) []suite {
	named := suite{packages: cfg.packages, sel: cfg.sel}
	switch {
	case !cfg.allPackages || !cfg.sel.complete():
		return []suite{named}
	case cfg.short() && short[arch] != nil:
		return short[arch]
	default:
		return []suite{withoutModules(), named}
	}
}

// exclusions are the tests that do not run. The slow ones run where their package is named.
func (cfg *config) exclusions() []exclusion {
	if cfg.short() {
		return slices.Concat(never, slow())
	}
	return never
}

// tool is a program and Debian's package of it.
type tool struct{ program, debian string }

// kernelTools fetch and unpack kernels.
var kernelTools = []tool{
	{"apt-get", "apt"},
	{"apt-cache", "apt"},
	{"dpkg-deb", "dpkg"},
	{"xz", "xz-utils"},
}

// requireTools says what to install.
func requireTools(tools ...tool) error {
	var errs []error
	for _, t := range tools {
		if _, err := exec.LookPath(t.program); err != nil {
			errs = append(errs, fmt.Errorf("%s not found: install Debian's package %s", t.program, t.debian))
		}
	}
	return errors.Join(errs...)
}

// untilOrphaned ends the context when the process that started this one ends:
// go run does not pass SIGTERM on.
func untilOrphaned(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancelCause(ctx)
	parent := os.Getppid()
	go func() {
		for range time.Tick(500 * time.Millisecond) {
			if os.Getppid() != parent {
				cancel(errors.New("the process that started this one is gone"))
				return
			}
		}
	}()
	return ctx
}
