package main

import (
	"strings"
	"testing"
)

// Lines as go 1.26 prints them, without Time and Elapsed.
const (
	passing = `{"Action":"start","Package":"x/a"}
{"Action":"run","Package":"x/a","Test":"TestA"}
{"Action":"output","Package":"x/a","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"output","Package":"x/a","Test":"TestA","Output":"    a_test.go:3: chatter\n"}
{"Action":"output","Package":"x/a","Test":"TestA","Output":"--- PASS: TestA (0.00s)\n"}
{"Action":"pass","Package":"x/a","Test":"TestA"}
{"Action":"output","Package":"x/a","Output":"PASS\n"}
{"Action":"output","Package":"x/a","Output":"ok  \tx/a\t0.003s\n"}
{"Action":"pass","Package":"x/a"}
`
	skipping = `{"Action":"run","Package":"x/b","Test":"TestB/sub"}
{"Action":"output","Package":"x/b","Test":"TestB/sub","Output":"=== RUN   TestB/sub\n"}
{"Action":"output","Package":"x/b","Test":"TestB/sub","Output":"    b_test.go:3: chatter\n"}
{"Action":"output","Package":"x/b","Test":"TestB/sub","Output":"    b_test.go:4: needs root:\n"}
{"Action":"output","Package":"x/b","Test":"TestB/sub","Output":"        to make a namespace\n"}
{"Action":"output","Package":"x/b","Test":"TestB/sub","Output":"    --- SKIP: TestB/sub (0.00s)\n"}
{"Action":"skip","Package":"x/b","Test":"TestB/sub"}
{"Action":"output","Package":"x/b","Output":"ok  \tx/b\t0.001s\n"}
{"Action":"pass","Package":"x/b"}
`
	failing = `{"Action":"output","Package":"x/c","Test":"TestC","Output":"=== RUN   TestC\n"}
{"Action":"output","Package":"x/c","Test":"TestC","Output":"    c_test.go:3: got 1, want 2\n"}
{"Action":"output","Package":"x/c","Test":"TestC","Output":"--- FAIL: TestC (0.00s)\n"}
{"Action":"fail","Package":"x/c","Test":"TestC"}
{"Action":"output","Package":"x/c","Output":"FAIL\tx/c\t0.001s\n"}
{"Action":"fail","Package":"x/c"}
`
	cutOff = `{"Action":"run","Package":"x/d","Test":"TestD"}
{"Action":"output","Package":"x/d","Test":"TestD","Output":"    d_test.go:3: before the end\n"}
{"Action":"output","Package":"x/d","Output":"FAIL\tx/d\t0.001s\n"}
{"Action":"fail","Package":"x/d"}
`
	raceAfterTest = `{"Action":"output","Package":"x/e","Test":"TestE","Output":"--- PASS: TestE (0.00s)\n"}
{"Action":"output","Package":"x/e","Test":"TestE","Output":"WARNING: DATA RACE\n"}
{"Action":"pass","Package":"x/e","Test":"TestE"}
{"Action":"output","Package":"x/e","Output":"exit status 66\nFAIL\tx/e\t0.001s\n"}
{"Action":"fail","Package":"x/e"}
`
	buildFails = `{"ImportPath":"x/f","Action":"build-output","Output":"f/f.go:1:1: undefined: g\n"}
{"ImportPath":"x/f","Action":"build-fail"}
{"Action":"output","Package":"x/f","Output":"FAIL\tx/f [build failed]\n"}
{"Action":"fail","Package":"x/f"}
`
)

func TestReport(t *testing.T) {
	for _, tt := range []struct {
		name       string
		events     string
		requireAll bool
		ok         bool
		want       string
	}{
		{
			name:   "passing tests leave their package's line",
			events: passing,
			ok:     true,
			want:   "ok  \tx/a\t0.003s\n\n1 tests passed, 0 left out, 0 failures.\n",
		},
		{
			name:   "a skipped test is named with its reason",
			events: skipping,
			ok:     true,
			want: "ok  \tx/b\t0.001s\n\n0 tests passed, 1 left out, 0 failures.\n" +
				"Left out:\n  x/b TestB/sub: needs root: to make a namespace\n",
		},
		{
			name:       "a skipped test fails when everything is required",
			events:     skipping,
			requireAll: true,
			want: "ok  \tx/b\t0.001s\n\n0 tests passed, 1 left out, 0 failures.\n" +
				"Left out:\n  x/b TestB/sub: needs root: to make a namespace\n" +
				"Failed: everything is required, and tests were left out.\n",
		},
		{
			name:       "passing tests pass when everything is required",
			events:     passing,
			requireAll: true,
			ok:         true,
			want:       "ok  \tx/a\t0.003s\n\n1 tests passed, 0 left out, 0 failures.\n",
		},
		{
			name:   "a failed test shows what it said",
			events: failing,
			want: "=== RUN   TestC\n    c_test.go:3: got 1, want 2\n--- FAIL: TestC (0.00s)\nFAIL\tx/c\t0.001s\n" +
				"\n0 tests passed, 0 left out, 1 failures.\nFailed:\n  x/c TestC\n",
		},
		{
			name:   "a test whose process ended is a failure",
			events: cutOff,
			want: "FAIL\tx/d\t0.001s\n    d_test.go:3: before the end\n" +
				"\n0 tests passed, 0 left out, 1 failures.\nFailed:\n  x/d TestD (did not finish)\n",
		},
		{
			name:   "a package that fails without a failed test shows everything",
			events: raceAfterTest,
			want: "exit status 66\nFAIL\tx/e\t0.001s\n--- PASS: TestE (0.00s)\nWARNING: DATA RACE\n" +
				"\n1 tests passed, 0 left out, 1 failures.\nFailed:\n  x/e\n",
		},
		{
			name:   "a build failure shows the compiler's words",
			events: buildFails,
			want: "f/f.go:1:1: undefined: g\nFAIL\tx/f [build failed]\n" +
				"\n0 tests passed, 0 left out, 1 failures.\nFailed:\n  x/f\n",
		},
		{
			name:   "a package may run twice",
			events: cutOff + strings.ReplaceAll(passing, "x/a", "x/d"),
			want: "FAIL\tx/d\t0.001s\n    d_test.go:3: before the end\nok  \tx/d\t0.003s\n" +
				"\n1 tests passed, 0 left out, 1 failures.\nFailed:\n  x/d TestD (did not finish)\n",
		},
		{
			name:   "other lines are passed on",
			events: "go: warning: something\n" + passing,
			ok:     true,
			want:   "go: warning: something\nok  \tx/a\t0.003s\n\n1 tests passed, 0 left out, 0 failures.\n",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			r := newReport(&out)
			if err := r.read(strings.NewReader(tt.events)); err != nil {
				t.Fatalf("read: %v", err)
			}
			ok := r.summarize(tt.requireAll)
			if ok != tt.ok {
				t.Errorf("summarize = %v, want %v", ok, tt.ok)
			}
			if got := out.String(); got != tt.want {
				t.Errorf("printed\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

func TestSkipWithoutReason(t *testing.T) {
	if got, want := skipReason("=== RUN   TestA\n--- SKIP: TestA (0.00s)\n"), "no reason given"; got != want {
		t.Errorf("skipReason = %q, want %q", got, want)
	}
}
