package main

import (
	"reflect"
	"strings"
	"testing"

	"sockstate_exporter/test/kernelmatrix/guest"
)

func TestJudge(t *testing.T) {
	const passed = "\x16=== RUN   TestA\nsome\x16--- PASS: TestA (0.00s)\n\x16=== RUN   TestB\n\x16--- PASS: TestB/x (0.00s)\n\x16--- PASS: TestB (0.00s)\nPASS\n"
	good := &guest.Exit{}
	for _, tt := range []struct {
		name string
		run  *packageRun
		want verdict
	}{
		{"all passed", &packageRun{[]byte(passed), good}, verdict{passed: 2}},
		{"not started", nil, verdict{failed: 2, problems: []string{"did not run"}}},
		{"guest died", &packageRun{[]byte(passed), nil}, verdict{passed: 2, failed: 1, problems: []string{"did not end"}}},
		{"exit status", &packageRun{[]byte(passed), &guest.Exit{Code: 1}}, verdict{passed: 2, failed: 1, problems: []string{"exit status 1"}}},
		{
			"killed",
			&packageRun{[]byte(passed), &guest.Exit{Code: 137, Error: "killed"}},
			verdict{passed: 2, failed: 1, problems: []string{"killed"}},
		},
		{
			"left something",
			&packageRun{[]byte(passed), &guest.Exit{Left: []string{"mount /x", "process 2: y"}}},
			verdict{passed: 2, failed: 1, problems: []string{"left behind: mount /x", "left behind: process 2: y"}},
		},
		{
			"failed and missing",
			&packageRun{[]byte("\x16--- FAIL: TestA (0.00s)\n"), &guest.Exit{Code: 1}},
			verdict{failed: 2, problems: []string{"TestA: FAIL", "TestB: did not run to its end", "exit status 1"}},
		},
		{
			"exit 0 without a test",
			&packageRun{nil, good},
			verdict{failed: 2, problems: []string{"TestA: did not run to its end", "TestB: did not run to its end"}},
		},
		{
			"results that tests print",
			&packageRun{[]byte("--- PASS: TestA (0.00s)\n    --- PASS: TestB (0.00s)\n"), good},
			verdict{failed: 2, problems: []string{"TestA: did not run to its end", "TestB: did not run to its end"}},
		},
		{
			"skipped",
			&packageRun{[]byte(strings.ReplaceAll(passed, "PASS: TestA", "SKIP: TestA")), good},
			verdict{passed: 1, failed: 1, problems: []string{"TestA: SKIP"}},
		},
		{
			"skipped subtest",
			&packageRun{[]byte(strings.ReplaceAll(passed, "PASS: TestB/x", "SKIP: TestB/x")), good},
			verdict{passed: 2, failed: 1, problems: []string{"TestB/x: SKIP"}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.want.pkg = "p"
			if got := judge("p", []string{"TestA", "TestB"}, tt.run, false); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("judged %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestJudgeBenchmarks(t *testing.T) {
	output := []byte("BenchmarkA\nBenchmarkA-2 \t 1000\t 1290 ns/op\nBenchmarkB\nBenchmarkC/x-2 \t 1 \t 5 ns/op\nBenchmarkDD-2 1 5 ns/op\n")
	got := judge("p", []string{"BenchmarkA", "BenchmarkB", "BenchmarkC", "BenchmarkD"}, &packageRun{output, &guest.Exit{}}, true)
	want := verdict{pkg: "p", passed: 2, failed: 2, problems: []string{"BenchmarkB: no result", "BenchmarkD: no result"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("judged %+v, want %+v", got, want)
	}
}

func TestGuestRunKeepsPackagesApart(t *testing.T) {
	exit := &guest.Exit{Package: "a"}
	g := newGuestRun()
	for _, e := range []guest.Event{
		{Up: &guest.Up{Release: "6.1"}},
		{Output: []byte("nobody's")},
		{Start: "a"},
		{Output: []byte("one")},
		{Output: []byte{}},
		{Exit: exit},
		{Start: "b"},
		{Output: []byte("two")},
	} {
		g.add(e)
	}
	want := map[string]*packageRun{
		"a": {output: []byte("one\n\n"), exit: exit},
		"b": {output: []byte("two\n")},
	}
	if g.release != "6.1" || !reflect.DeepEqual(g.packages, want) {
		t.Errorf("release %q, packages %v", g.release, g.packages)
	}
}

func TestExclusionsByPackage(t *testing.T) {
	whole, part := exclusion{pkg: "p", test: "TestA"}, exclusion{pkg: "p", test: "TestB/x"}
	want := []exclusion{whole, part}
	if got := excluded([]exclusion{whole, {pkg: "q", test: "TestA"}, part}, "p"); !reflect.DeepEqual(got, want) {
		t.Errorf("excluded %v, want %v", got, want)
	}
}

func TestExcludedTestIsNotWanted(t *testing.T) {
	got := withoutExcluded([]string{"TestA", "TestAB", "TestB"}, []exclusion{{test: "TestA"}, {test: "TestB/x"}})
	if want := []string{"TestAB", "TestB"}; !reflect.DeepEqual(got, want) {
		t.Errorf("wanted %q, want %q", got, want)
	}
}

func TestSkipPatternNamesTestsExactly(t *testing.T) {
	got := skipPattern([]exclusion{{test: "TestA"}, {test: "TestB/x.y"}})
	if want := `^TestA$|^TestB$/^x\.y$`; got != want {
		t.Errorf("pattern %s, want %s", got, want)
	}
}

func TestStaleExclusionIsRefused(t *testing.T) {
	tests := []testBinary{{pkg: "p", tests: []string{"TestA"}}}
	for _, tt := range []struct {
		exclusion   exclusion
		allPackages bool
		want        string
	}{
		{exclusion{pkg: "p", test: "TestA"}, true, ""},
		{exclusion{pkg: "p", test: "TestA/x"}, true, ""},
		{exclusion{pkg: "p", test: "TestB"}, false, "exclusion of TestB: there is no such test in p"},
		{exclusion{pkg: "q", test: "TestA"}, true, "exclusion of TestA: there is no such test in q"},
		{exclusion{pkg: "q", test: "TestA"}, false, ""},
	} {
		got := ""
		if err := checkExclusions([]exclusion{tt.exclusion}, tests, tt.allPackages); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%v: error %q, want %q", tt.exclusion, got, tt.want)
		}
	}
}

func TestEveryExclusionHasAReason(t *testing.T) {
	for _, e := range append(slow(), never...) {
		if e.reason == "" || e.pkg == "" || e.test == "" {
			t.Errorf("incomplete: %+v", e)
		}
	}
}

func TestReadableOutputHasNoMarks(t *testing.T) {
	got := string(readable([]byte("\x16=== RUN   TestA\n\x16--- PASS: TestA (0.00s)\n\x16=== NAME  \n\x16=== NAME  TestB\n    log\nPASS")))
	if want := "=== RUN   TestA\n--- PASS: TestA (0.00s)\n    log\nPASS"; got != want {
		t.Errorf("output %q, want %q", got, want)
	}
}

func TestOutputOfAFailureNamesNoTestThatPassed(t *testing.T) {
	const output = "\x16=== RUN   TestA\nprinted\x16--- PASS: TestA (0.00s)\n" +
		"\x16=== RUN   TestB\n\x16=== RUN   TestB/x\n\x16--- PASS: TestB/x (0.00s)\n\x16--- FAIL: TestB (0.00s)\n\x16=== RUN   TestC\n"
	const want = "printed\x16=== RUN   TestB\n\x16--- FAIL: TestB (0.00s)\n\x16=== RUN   TestC\n"
	if got := string(withoutPassed([]byte(output))); got != want {
		t.Errorf("output %q, want %q", got, want)
	}
}

func TestTailKeepsTheLastLines(t *testing.T) {
	if got, want := string(tail([]byte("a\nb\nc\nd"), 2)), "c\nd"; got != want {
		t.Errorf("tail %q, want %q", got, want)
	}
	if got, want := string(tail([]byte("a\nb"), 5)), "a\nb"; got != want {
		t.Errorf("tail %q, want %q", got, want)
	}
}
