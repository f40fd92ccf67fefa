package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
)

func main() {
	reasons, err := read(os.Stdin)
	if err != nil {
		fmt.Fprintln(os.Stderr, "skipped:", err)
		os.Exit(1)
	}
	fmt.Print(summary(reasons))
	if len(reasons) > 0 && os.Getenv("SOCKSTATE_REQUIRE_ALL") == "1" {
		fmt.Println("Failed: everything is required, and tests were left out.")
		os.Exit(1)
	}
}

// An event is a line of `go test -json` (go doc test2json).
type event struct {
	Action, Package, Test, Output string
}

// read gives the tests that were skipped, by reason.
func read(in io.Reader) (map[string][]string, error) {
	said, reasons := make(map[string]string), make(map[string][]string)
	for events := json.NewDecoder(in); ; {
		var e event
		if err := events.Decode(&e); errors.Is(err, io.EOF) {
			return reasons, nil
		} else if err != nil {
			return nil, fmt.Errorf("read test events: %w", err)
		}
		test := e.Package + " " + e.Test
		switch {
		case e.Test == "":
		case e.Action == "output":
			said[test] += e.Output
		case e.Action == "skip":
			reason := reasonOf(said[test])
			reasons[reason] = append(reasons[reason], strings.TrimPrefix(test, "sockstate_exporter/"))
			delete(said, test)
		default:
			delete(said, test)
		}
	}
}

var (
	// place stands before the first line of a t.Log, t.Skip or t.Error.
	place = regexp.MustCompile(`^\s+[^\s:]+\.go:\d+: `)
	// frame is a line that the testing package writes.
	frame = regexp.MustCompile(`^\s*(=== |--- )`)
)

// reasonOf is the last message of a skipped test, which it gave to t.Skip, on one line.
func reasonOf(said string) string {
	var reason []string
	for line := range strings.Lines(said) {
		at := place.FindString(line)
		switch {
		case frame.MatchString(line):
		case at != "":
			reason = []string{strings.TrimSpace(line[len(at):])}
		case len(reason) > 0:
			reason = append(reason, strings.TrimSpace(line))
		}
	}
	if len(reason) == 0 {
		return "no reason given"
	}
	return strings.Join(reason, " ")
}

// summary has a line for each reason, the most frequent first. It names a test that has the
// reason alone.
func summary(reasons map[string][]string) string {
	var b strings.Builder
	if len(reasons) > 0 {
		b.WriteString("Left out:\n")
	}
	lines := make([]string, 0, len(reasons))
	for reason, tests := range reasons {
		who := fmt.Sprintf("%d tests", len(tests))
		if len(tests) == 1 {
			who = tests[0]
		}
		lines = append(lines, fmt.Sprintf("%06d  %s: %s\n", len(tests), who, reason))
	}
	slices.Sort(lines)
	for _, line := range slices.Backward(lines) {
		b.WriteString(line[6:])
	}
	return b.String()
}
