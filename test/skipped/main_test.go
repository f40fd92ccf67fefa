package main

import (
	"strings"
	"testing"
)

// Lines as go 1.26 prints them, without Time and Elapsed.
const events = `{"Action":"start","Package":"x/a"}
{"Action":"run","Package":"x/a","Test":"TestA"}
{"Action":"output","Package":"x/a","Test":"TestA","Output":"    a_test.go:3: chatter\n"}
{"Action":"pass","Package":"x/a","Test":"TestA"}
{"Action":"run","Package":"x/b","Test":"TestB/sub"}
{"Action":"output","Package":"x/b","Test":"TestB/sub","Output":"=== RUN   TestB/sub\n"}
{"Action":"output","Package":"x/b","Test":"TestB/sub","Output":"    b_test.go:3: chatter\n"}
{"Action":"output","Package":"x/b","Test":"TestB/sub","Output":"    b_test.go:4: needs root:\n"}
{"Action":"output","Package":"x/b","Test":"TestB/sub","Output":"        to make a namespace\n"}
{"Action":"output","Package":"x/b","Test":"TestB/sub","Output":"    --- SKIP: TestB/sub (0.00s)\n"}
{"Action":"skip","Package":"x/b","Test":"TestB/sub"}
{"Action":"skip","Package":"x/c","Test":"TestC"}
{"Action":"output","Package":"x/c","Test":"TestD","Output":"    d_test.go:9: needs root: to make a namespace\n"}
{"Action":"skip","Package":"x/c","Test":"TestD"}
{"Action":"skip","Package":"x/empty"}
`

func TestSkippedTestsAreGroupedByReason(t *testing.T) {
	reasons, err := read(strings.NewReader(events))
	if err != nil {
		t.Fatal(err)
	}
	const want = "Left out:\n" +
		"  2 tests: needs root: to make a namespace\n" +
		"  x/c TestC: no reason given\n"
	if got := summary(reasons); got != want {
		t.Errorf("printed\n%swant\n%s", got, want)
	}
}

func TestNothingLeftOutIsNotMentioned(t *testing.T) {
	if got := summary(nil); got != "" {
		t.Errorf("printed %q", got)
	}
}

func TestLineThatIsNoEventIsAnError(t *testing.T) {
	if _, err := read(strings.NewReader("FAIL\n")); err == nil {
		t.Error("no error")
	}
}
