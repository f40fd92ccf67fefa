package check

import (
	"context"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/report"
)

// Exit statuses.
const (
	ExitFree    = 0 // it would work on every port
	ExitBlocked = 1 // it would not on one
	ExitError   = 2 // that could not be found out, or the command line is wrong
)

// Run runs the command; args are those after its name. The result is the exit status.
func Run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	opts, err := parse(args, stdout, stderr)
	if err == nil && opts == nil {
		return ExitFree
	}
	var judged *judgement
	if err == nil {
		judged, err = tell(ctx, opts, stdout, stderr)
	}
	if err != nil {
		fmt.Fprintf(stderr, "%s: error: %v\n", name, err)
		return ExitError
	}
	return exitStatus(judged.outcome())
}

// tell writes the report that the options ask for.
func tell(ctx context.Context, opts *options, stdout, stderr io.Writer) (*judgement, error) {
	src := openSources(opts)
	defer src.Close()
	var judged *judgement
	var err error
	if opts.wait.asked {
		judged, err = await(ctx, opts, src, stderr)
	} else {
		judged, err = src.look(ctx, opts, true)
	}
	if err != nil {
		return nil, err
	}
	return judged, write(judged, opts, src.notSeen(judged.ports), stdout)
}

func exitStatus(o report.Outcome) int {
	switch o {
	case report.Free:
		return ExitFree
	case report.Blocked:
		return ExitBlocked
	default:
		return ExitError
	}
}

func write(judged *judgement, opts *options, notSeen string, stdout io.Writer) error {
	var err error
	if opts.json {
		err = writeJSON(stdout, judged)
	} else {
		err = writeText(stdout, judged, opts.targets, notSeen, colours(stdout))
	}
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

// colours are for a terminal whose user has not declined them (https://no-color.org).
func colours(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}
