package main

import (
	"reflect"
	"testing"
)

func TestFlags(t *testing.T) {
	cfg, err := parseFlags([]string{"-C", "/m", "-cache", "/c", "-kernel", "6.1,/k", "-env", "X=Y", "./p"})
	if err != nil {
		t.Fatal(err)
	}
	if cfg.dir != "/m" || cfg.cache != "/c" || cfg.allPackages {
		t.Errorf("parsed %+v", cfg)
	}
	if want := []string{"6.1", "/k"}; !reflect.DeepEqual(cfg.kernels, want) {
		t.Errorf("kernels %q, want %q", cfg.kernels, want)
	}
	if want := []string{"./p"}; !reflect.DeepEqual(cfg.packages, want) {
		t.Errorf("packages %q, want %q", cfg.packages, want)
	}
}

func TestDefaultPackagesRunWhenNoneIsNamed(t *testing.T) {
	cfg, err := parseFlags(nil)
	if err != nil {
		t.Fatal(err)
	}
	if !cfg.allPackages || !reflect.DeepEqual(cfg.packages, defaultPackages) {
		t.Errorf("packages %q, all %v, want %q, true", cfg.packages, cfg.allPackages, defaultPackages)
	}
}

func TestFlagsThatMakeNoSense(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"-j=0", "p"}, "-j=0: want 1 or more"},
	} {
		if _, err := parseFlags(tt.args); err == nil || err.Error() != tt.want {
			t.Errorf("%q: error %v, want %s", tt.args, err, tt.want)
		}
	}
}

func TestMissingToolsAreNamedWithTheirPackages(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	const want = `apt-get not found: install Debian's package apt
apt-cache not found: install Debian's package apt
dpkg-deb not found: install Debian's package dpkg
xz not found: install Debian's package xz-utils`
	if err := requireTools(kernelTools...); err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

func TestArm64RunsSomeTestsWhereNothingIsSelected(t *testing.T) {
	whole := func(packages ...string) []suite {
		return []suite{{packages: packages, sel: selection{benchtime: "1s"}}}
	}
	for _, tt := range []struct {
		arch string
		args []string
		want []suite
	}{
		{"amd64", nil, append([]suite{withoutModules()}, whole(defaultPackages...)...)},
		{"arm64", nil, short["arm64"]},
		{"arm64", []string{"-long"}, append([]suite{withoutModules()}, whole(defaultPackages...)...)},
		{"arm64", []string{"./p"}, whole("./p")},
		{"arm64", []string{"-run=TestA"}, []suite{{packages: defaultPackages, sel: selection{run: "TestA", benchtime: "1s"}}}},
	} {
		cfg, err := parseFlags(tt.args)
		if err != nil {
			t.Fatal(err)
		}
		if got := cfg.suites(tt.arch); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s %q: %+v, want %+v", tt.arch, tt.args, got, tt.want)
		}
	}
}

func TestNamedTestThatIsGoneIsMissing(t *testing.T) {
	s := testsOf("./p", "TestA", "TestB")
	if want := (selection{run: "^(TestA|TestB)$"}); s.sel != want {
		t.Errorf("selection %+v, want %+v", s.sel, want)
	}
	got := s.missing([]testBinary{{tests: []string{"TestB", "TestC"}}})
	if want := []string{"TestA"}; !reflect.DeepEqual(got, want) {
		t.Errorf("missing %q, want %q", got, want)
	}
}
