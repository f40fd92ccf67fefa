package main

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"sockstate_exporter/test/kernelmatrix/guest"
)

// packageRun is what a guest reported of one package.
type packageRun struct {
	output []byte
	exit   *guest.Exit // nil: it did not end, or never started
}

// guestRun is what a guest reported.
type guestRun struct {
	release  string // empty: it did not come up
	packages map[string]*packageRun
	current  string

	started time.Time                // the current package
	took    map[string]time.Duration // by package
}

func newGuestRun() *guestRun {
	return &guestRun{packages: make(map[string]*packageRun), took: make(map[string]time.Duration)}
}

func (g *guestRun) add(e guest.Event) {
	switch {
	case e.Up != nil:
		g.release = e.Up.Release
	case e.Start != "":
		g.current, g.started = e.Start, time.Now()
		g.packages[e.Start] = &packageRun{}
	case e.Output != nil && g.packages[g.current] != nil:
		p := g.packages[g.current]
		p.output = append(append(p.output, e.Output...), '\n')
	case e.Exit != nil && g.packages[e.Exit.Package] != nil:
		g.packages[e.Exit.Package].exit = e.Exit
		g.took[e.Exit.Package] = time.Since(g.started)
	}
}

// verdict is the judgement on one package in one guest.
type verdict struct {
	pkg      string
	passed   int
	failed   int
	problems []string
}

// resultMark is testing's marker before a result with -test.v=test2json.
const resultMark = "\x16"

// resultLine matches what (*testing.T).report prints.
var resultLine = regexp.MustCompile(resultMark + `--- (PASS|FAIL|SKIP): (\S+) \(`)

// results returns the result of each test and subtest.
func results(output []byte) map[string]string {
	found := make(map[string]string)
	for _, m := range resultLine.FindAllSubmatch(output, -1) {
		found[string(m[2])] = string(m[1])
	}
	return found
}

// judge compares what ran with the tests that should have. A test that should
// have run and did not pass is failed, for whatever reason.
func judge(pkg string, want []string, p *packageRun, bench bool) verdict {
	v := verdict{pkg: pkg}
	if p == nil {
		v.failed = max(len(want), 1)
		v.problems = []string{"did not run"}
		return v
	}
	v.problems = exitProblems(p.exit)
	if bench {
		v.countBenchmarks(want, p.output)
	} else {
		v.countTests(want, results(p.output))
	}
	if len(v.problems) > 0 {
		v.failed = max(v.failed, 1)
	}
	return v
}

func exitProblems(exit *guest.Exit) []string {
	if exit == nil {
		return []string{"did not end"}
	}
	var problems []string
	if exit.Error != "" {
		problems = append(problems, exit.Error)
	}
	if exit.Code != 0 && exit.Error == "" {
		problems = append(problems, fmt.Sprintf("exit status %d", exit.Code))
	}
	for _, l := range exit.Left {
		problems = append(problems, "left behind: "+l)
	}
	return problems
}

func (v *verdict) countTests(want []string, got map[string]string) {
	for _, name := range want {
		switch got[name] {
		case "PASS":
			v.passed++
		case "":
			v.failed++
			v.problems = append(v.problems, name+": did not run to its end")
		default:
			v.failed++
			v.problems = append(v.problems, name+": "+got[name])
		}
	}
	// A test whose subtest was skipped passes.
	for name, result := range got {
		if result == "SKIP" && !slices.Contains(want, name) {
			v.failed++
			v.problems = append(v.problems, name+": SKIP")
		}
	}
	slices.Sort(v.problems)
}

func (v *verdict) countBenchmarks(want []string, output []byte) {
	for _, name := range want {
		if benchmarkRan(name, output) {
			v.passed++
			continue
		}
		v.failed++
		v.problems = append(v.problems, name+": no result")
	}
}

func benchmarkRan(name string, output []byte) bool {
	for line := range bytes.Lines(output) {
		after, ok := strings.CutPrefix(string(line), name)
		if ok && strings.ContainsAny(after[:1], "/- \t") && strings.Contains(after, " ns/op") {
			return true
		}
	}
	return false
}

// excluded returns the exclusions that hold for a package.
func excluded(all []exclusion, pkg string) []exclusion {
	var found []exclusion
	for _, e := range all {
		if e.pkg == pkg {
			found = append(found, e)
		}
	}
	return found
}

// skipPattern is the -test.skip that keeps excluded tests from running.
func skipPattern(excluded []exclusion) string {
	var alternatives []string
	for _, e := range excluded {
		elems := strings.Split(e.test, "/")
		for i := range elems {
			elems[i] = "^" + regexp.QuoteMeta(elems[i]) + "$"
		}
		alternatives = append(alternatives, strings.Join(elems, "/"))
	}
	return strings.Join(alternatives, "|")
}

// withoutExcluded returns the tests that must run; a test of which only a
// subtest is excluded is one of them.
func withoutExcluded(tests []string, excluded []exclusion) []string {
	return slices.DeleteFunc(slices.Clone(tests), func(name string) bool {
		return slices.ContainsFunc(excluded, func(e exclusion) bool { return e.test == name })
	})
}

// checkExclusions refuses exclusions of tests that are gone. Only when all
// packages are there can it tell that a package is gone.
func checkExclusions(all []exclusion, tests []testBinary, allPackages bool) error {
	for _, e := range all {
		name, _, _ := strings.Cut(e.test, "/")
		i := slices.IndexFunc(tests, func(b testBinary) bool { return b.pkg == e.pkg })
		if i < 0 && !allPackages {
			continue
		}
		if i < 0 || !slices.Contains(tests[i].tests, name) {
			return fmt.Errorf("exclusion of %s: there is no such test in %s", e.test, e.pkg)
		}
	}
	return nil
}
