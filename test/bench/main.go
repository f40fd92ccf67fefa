package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "bench: error: %v\n", err)
		os.Exit(1)
	}
}

// options are the command line.
type options struct {
	sockets  []int
	rounds   int
	only     []string
	markdown bool
	exporter string
}

func parse(args []string, stderr io.Writer) (options, error) {
	opts := options{sockets: []int{1_000, 10_000, 100_000, 1_000_000}, only: []string{"sockets", "ports", "host"}}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Func("sockets", "numbers of TIME_WAIT sockets (default 1000,10000,100000,1000000); the ports table takes the two largest", func(s string) error {
		opts.sockets = nil
		for part := range strings.SplitSeq(s, ",") {
			n, err := strconv.Atoi(part)
			if err != nil || n < mostPortsMade {
				return fmt.Errorf("%q: want numbers of %d or more", part, mostPortsMade)
			}
			opts.sockets = append(opts.sockets, n)
		}
		slices.Sort(opts.sockets)
		return nil
	})
	flags.IntVar(&opts.rounds, "rounds", 5, "rounds at 100,000 sockets and more; four times as many below")
	flags.Func("only", "tables to make, of sockets,ports,host (default all)", func(s string) error {
		all := opts.only
		opts.only = strings.Split(s, ",")
		for _, name := range opts.only {
			if !slices.Contains(all, name) {
				return fmt.Errorf("no table %q, want some of %s", name, strings.Join(all, ","))
			}
		}
		return nil
	})
	flags.BoolVar(&opts.markdown, "markdown", false, "print the tables in Markdown, as in docs/performance.md")
	flags.StringVar(&opts.exporter, "exporter", "", "the sockstate_exporter to measure (default: built from this module)")
	err := flags.Parse(args)
	switch {
	case err != nil:
		return opts, err
	case flags.NArg() > 0:
		return opts, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case opts.rounds < 1:
		return opts, fmt.Errorf("-rounds=%d: want 1 or more", opts.rounds)
	}
	return opts, nil
}

// run makes the tables and prints each as soon as it is there; progress goes to stderr.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	opts, err := parse(args, stderr)
	if err != nil {
		return err
	}
	b, err := newBench(ctx, opts, stderr)
	if err != nil {
		return err
	}
	defer b.close()

	var failed []error // what could not be measured does not cost the rest
	out := printer{w: stdout, markdown: opts.markdown}
	out.facts(b.facts(ctx))
	for _, t := range []struct {
		name string
		run  func(context.Context) ([]table, error)
	}{
		{"sockets", b.socketsTables},
		{"ports", b.portsTables},
		{"host", b.hostTables},
	} {
		if !slices.Contains(opts.only, t.name) {
			continue
		}
		tables, err := t.run(ctx)
		for _, t := range tables {
			out.table(t)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("table %s: %w", t.name, err))
		}
	}
	return errors.Join(failed...)
}
