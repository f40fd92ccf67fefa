package main

import (
	"reflect"
	"slices"
	"testing"
	"time"

	"sockstate_exporter/test/kernelmatrix/debkernel"
	"sockstate_exporter/test/kernelmatrix/guest"
)

func TestPackageWithoutTestsIsLeftOutOfAWildcardOnly(t *testing.T) {
	tested := goPackage{ImportPath: "a", TestGoFiles: []string{"a_test.go"}}
	external := goPackage{ImportPath: "b", XTestGoFiles: []string{"b_test.go"}}
	untested := goPackage{ImportPath: "c"}
	got, err := withTests([]goPackage{tested, untested, external}, true)
	if want := []goPackage{tested, external}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("kept %v, %v, want %v", got, err, want)
	}
	if _, err := withTests([]goPackage{tested, untested}, false); err == nil || err.Error() != "package c has no test files" {
		t.Errorf("error %v", err)
	}
	if _, err := withTests([]goPackage{untested}, true); err == nil || err.Error() != "no package with tests" {
		t.Errorf("error %v", err)
	}
}

func TestSelection(t *testing.T) {
	for _, tt := range []struct {
		sel              selection
		pattern          string
		tests, benchmark bool
	}{
		{selection{}, ".", true, false},
		{selection{run: "TestA/x"}, "TestA", true, false},
		{selection{run: "TestA", bench: "B/y"}, "B", false, true},
		{selection{bench: "."}, ".", false, true},
	} {
		if got := tt.sel.pattern(); got != tt.pattern {
			t.Errorf("%+v: pattern %q, want %q", tt.sel, got, tt.pattern)
		}
		if got := tt.sel.wants("TestA"); got != tt.tests {
			t.Errorf("%+v: wants TestA: %v", tt.sel, got)
		}
		if got := tt.sel.wants("BenchmarkB"); got != tt.benchmark {
			t.Errorf("%+v: wants BenchmarkB: %v", tt.sel, got)
		}
	}
}

func TestPlan(t *testing.T) {
	sel := selection{run: "Test"}
	tests := []testBinary{{pkg: "m/a", rel: "a", sel: sel}, {pkg: "m", rel: ".", sel: sel, noModules: true}}
	skip := func(b testBinary) string { return map[string]string{"m": "^TestX$"}[b.pkg] }
	got := makePlan(tests, []debkernel.Module{{Name: "inet_diag"}}, skip, time.Minute, []string{"A=B"})
	args := func(first string, rest ...string) []string {
		return append([]string{first, "-test.v=test2json", "-test.paniconexit0", "-test.timeout=1m0s", "-test.run=Test"}, rest...)
	}
	want := guest.Plan{
		Modules: []string{"inet_diag"},
		Env:     []string{"A=B"},
		Runs: []guest.Run{
			{Package: "m/a", Dir: "/src/a", Args: args("/src/a/a.test"), KillAfter: 75 * time.Second},
			{Package: "m", Dir: "/src", Args: args("/src/m.test", "-test.skip=^TestX$"), NoModules: true, KillAfter: 75 * time.Second},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("plan is\n%+v, want\n%+v", got, want)
	}
}

func TestModesOfAKernel(t *testing.T) {
	for _, tt := range []struct {
		arch         string
		fexit, short bool
		want         string
	}{
		{"amd64", true, false, "fexit,kprobe,tracepoint"},
		{"amd64", true, true, "fexit,kprobe"},
		{"arm64", true, true, "fexit,kprobe,tracepoint"},
		{"arm64", false, true, "kprobe,tracepoint"},
	} {
		env := guestEnv(debkernel.Kernel{Arch: tt.arch, Fexit: tt.fexit}, tt.short, nil)
		if want := "SOCKSTATE_BPF_MODES=" + tt.want; !slices.Contains(env, want) {
			t.Errorf("environment %q lacks %s", env, want)
		}
	}
}
