package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
)

// event is the part of a `go test -json` line (go doc test2json) that matters
// here. Events of a build carry no Package.
type event struct {
	Action  string
	Package string
	Test    string
	Output  string
}

// skip is a test that was left out.
type skip struct {
	test   string
	reason string
}

// report collects the events of one or several runs of `go test -json`.
type report struct {
	out      io.Writer
	packages map[string]*packageRun

	passed  int
	failed  []string
	skipped []skip
}

// packageRun is a package whose tests still run.
type packageRun struct {
	order  []string // tests in the order they began
	said   map[string]*strings.Builder
	open   map[string]bool // tests that began and have not ended
	failed bool            // at least one of its tests failed
}

func newReport(out io.Writer) *report {
	return &report{out: out, packages: make(map[string]*packageRun)}
}

// read takes events until in ends. Lines that are no events, such as what the
// go command says about a package it cannot load, are printed as they are.
func (r *report) read(in io.Reader) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if !bytes.HasPrefix(line, []byte("{")) || json.Unmarshal(line, &e) != nil {
				r.print(string(line))
			} else {
				r.take(e)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read test events: %w", err)
		}
	}
}

func (r *report) take(e event) {
	switch {
	case e.Package == "":
		// The compiler's words; the packages it failed for fail next.
		r.print(e.Output)
	case e.Test == "":
		r.takePackage(e)
	default:
		r.takeTest(e)
	}
}

func (r *report) takePackage(e event) {
	switch e.Action {
	case "output":
		if e.Output != "PASS\n" {
			r.print(e.Output)
		}
	case "fail":
		r.packageFailed(e.Package)
		delete(r.packages, e.Package)
	case "pass", "skip":
		delete(r.packages, e.Package)
	}
}

// packageFailed prints what takeTest could not know to be of interest: tests
// cut off by the end of their process and, where no test failed (a data race
// after the last test, an exit code), everything.
func (r *report) packageFailed(name string) {
	p := r.run(name)
	cutOff := false
	for _, test := range p.order {
		if p.open[test] {
			cutOff = true
			r.print(p.said[test].String())
			r.failed = append(r.failed, name+" "+test+" (did not finish)")
		}
	}
	if p.failed || cutOff {
		return
	}
	for _, test := range p.order {
		r.print(p.said[test].String())
	}
	r.failed = append(r.failed, name)
}

func (r *report) takeTest(e event) {
	p := r.run(e.Package)
	if p.said[e.Test] == nil {
		p.order = append(p.order, e.Test)
		p.said[e.Test] = new(strings.Builder)
		p.open[e.Test] = true
	}
	switch e.Action {
	case "output":
		p.said[e.Test].WriteString(e.Output)
	case "pass":
		p.open[e.Test] = false
		r.passed++
	case "fail":
		p.open[e.Test] = false
		p.failed = true
		r.print(p.said[e.Test].String())
		r.failed = append(r.failed, e.Package+" "+e.Test)
	case "skip":
		p.open[e.Test] = false
		r.skipped = append(r.skipped, skip{test: e.Package + " " + e.Test, reason: skipReason(p.said[e.Test].String())})
	}
}

func (r *report) run(name string) *packageRun {
	p := r.packages[name]
	if p == nil {
		p = &packageRun{said: make(map[string]*strings.Builder), open: make(map[string]bool)}
		r.packages[name] = p
	}
	return p
}

// summarize prints what was left out and what failed, and reports whether the
// run may pass.
func (r *report) summarize(requireAll bool) bool {
	r.print(fmt.Sprintf("\n%d tests passed, %d left out, %d failures.\n", r.passed, len(r.skipped), len(r.failed)))
	if len(r.skipped) > 0 {
		r.print("Left out:\n")
		for _, s := range r.skipped {
			r.print(fmt.Sprintf("  %s: %s\n", s.test, s.reason))
		}
	}
	if len(r.failed) > 0 {
		r.print("Failed:\n")
		for _, name := range r.failed {
			r.print("  " + name + "\n")
		}
	}
	if requireAll && len(r.skipped) > 0 {
		r.print("Failed: everything is required, and tests were left out.\n")
		return false
	}
	return len(r.failed) == 0
}

// print leaves write errors to the caller's pipe: with nobody reading there is
// nobody to tell.
func (r *report) print(s string) {
	_, _ = io.WriteString(r.out, s)
}

// logged matches the first line of a t.Log, t.Skip or t.Error: indented, and
// marked with its place.
var logged = regexp.MustCompile(`^\s+[^\s:]+\.go:\d+: `)

// skipReason finds the last message of a skipped test, which is what it gave
// to t.Skip, and joins its lines.
func skipReason(said string) string {
	var reason []string
	for line := range strings.Lines(said) {
		switch place := logged.FindString(line); {
		case strings.HasPrefix(line, "=== "), strings.HasPrefix(strings.TrimLeft(line, " "), "--- SKIP"):
		case place != "":
			reason = []string{strings.TrimSpace(line[len(place):])}
		case len(reason) > 0:
			reason = append(reason, strings.TrimSpace(line))
		}
	}
	if len(reason) == 0 {
		return "no reason given"
	}
	return strings.Join(reason, " ")
}
