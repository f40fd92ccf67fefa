package debkernel

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestNewestPackageOfASeries(t *testing.T) {
	names := []string{
		"linux-image-6.1.0-9-cloud-amd64",
		"linux-image-6.1.0-56-cloud-amd64",
		"linux-image-6.1.0-47-cloud-amd64",
		"linux-image-6.1.0-57-cloud-amd64-dbg",
		"linux-image-6.1.0-58-cloud-amd64-unsigned",
		"linux-image-6.1.0-59-amd64",
		"linux-image-6.1.0-60-rt-amd64",
		"linux-image-6.12-cloud-amd64",
		"linux-image-6.12.57+deb12-cloud-amd64",
		"linux-image-6.12.117+deb12-cloud-amd64",
		"linux-image-6.12.120+deb12-cloud-arm64",
		"xlinux-image-6.12.121+deb12-cloud-amd64",
	}
	for _, tt := range []struct{ series, arch, want string }{
		{"6.1", "amd64", "linux-image-6.1.0-56-cloud-amd64"},
		{"6.12", "amd64", "linux-image-6.12.117+deb12-cloud-amd64"},
		{"6", "amd64", "linux-image-6.12.117+deb12-cloud-amd64"},
		{"6.12", "arm64", "linux-image-6.12.120+deb12-cloud-arm64"},
		{"6.13", "amd64", ""},
		{"6.1.0-5", "amd64", ""},
		{".*", "amd64", ""},
	} {
		got, ok := newestPackage(names, packagePattern(tt.series, tt.arch))
		if got != tt.want || ok != (tt.want != "") {
			t.Errorf("series %s: %q, %v, want %q", tt.series, got, ok, tt.want)
		}
	}
}

func TestNewestPackageLeavesItsArgumentAlone(t *testing.T) {
	names := []string{"linux-image-6.1.0-1-amd64", "linux-image-6.1.0-2-cloud-amd64"}
	before := slices.Clone(names)
	newestPackage(names, packagePattern("6.1", "amd64"))
	if !reflect.DeepEqual(names, before) {
		t.Errorf("names are now %q", names)
	}
}

func TestURIOfAPackage(t *testing.T) {
	sum := fmt.Sprintf("%x", sha256.Sum256(nil))
	const file = "linux-image-6.12.117+deb12-cloud-amd64_6.12.117-1~deb12u1_amd64.deb"
	got, err := parseURI("'http://deb.example/" + file + "' " + file + " 34307256 SHA256:" + sum + "\n")
	if want := (aptPackage{file: file, sha256: sum}); err != nil || got != want {
		t.Errorf("parsed %+v, %v, want %+v", got, err, want)
	}
}

func TestURIWithoutSHA256IsRefused(t *testing.T) {
	for _, line := range []string{
		"",
		"'http://x/y' y 1",
		"'http://x/y' y 1 MD5Sum:d41d8cd98f00b204e9800998ecf8427e",
		"'http://x/y' y 1 SHA256:d41d8cd98f00b204e9800998ecf8427e",
		"'http://x/y' y 1 SHA256:" + strings.Repeat("x", 64),
	} {
		want := fmt.Sprintf("apt-get --print-uris says %q, want URI, file, size and SHA256", line)
		if _, err := parseURI(line); err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
	}
}

func TestDamagedDownloadIsRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.deb")
	if err := os.WriteFile(file, []byte("good"), 0o600); err != nil {
		t.Fatal(err)
	}
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte("good")))
	if err := verify(file, sum); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("bad"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("x.deb has SHA256 %x, apt says %s", sha256.Sum256([]byte("bad")), sum)
	if err := verify(file, sum); err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

func TestListsAreFetchedAgainAfterTheMachines(t *testing.T) {
	dir := unpacked(t, "own", "machine")
	own, machine := filepath.Join(dir, "own"), filepath.Join(dir, "machine")
	now := time.Now()
	for age, want := range map[time.Duration]bool{time.Hour: true, -time.Hour: false} {
		if err := os.Chtimes(machine, now, now.Add(-age)); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(own, now, now); err != nil {
			t.Fatal(err)
		}
		if got := newer(own, machine); got != want {
			t.Errorf("machine's lists %v older: newer is %v", age, got)
		}
	}
	if !newer(own, machine+"-gone") || newer(own+"-gone", machine) {
		t.Error("a missing file is newer")
	}
}

// unpacked makes directories and empty files.
func unpacked(t *testing.T, paths ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, p := range paths {
		write(t, filepath.Join(dir, p), "")
	}
	return dir
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestKernelOfAnUnpackedPackage(t *testing.T) {
	for _, tt := range []struct {
		lib, options string
		want         Kernel
	}{
		{"lib", "CONFIG_X86_64=y\nCONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS=y\n", Kernel{Arch: "amd64", Fexit: true}},
		{"usr/lib", "CONFIG_ARM64=y\n# CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS is not set\n", Kernel{Arch: "arm64"}},
	} {
		dir := unpacked(t, "boot/vmlinuz-6.1.0-1", tt.lib+"/modules/6.1.0-1/modules.builtin")
		write(t, dir+"/boot/config-6.1.0-1", tt.options)
		tt.want.Release, tt.want.Image, tt.want.modules = "6.1.0-1", dir+"/boot/vmlinuz-6.1.0-1", dir+"/"+tt.lib+"/modules/6.1.0-1"
		if got, err := open(dir); err != nil || got != tt.want {
			t.Errorf("opened %+v, %v, want %+v", got, err, tt.want)
		}
	}
}

func TestKernelOfAnotherArchitectureIsRefused(t *testing.T) {
	dir := unpacked(t, "boot/vmlinuz-6.1.0-1", "boot/config-6.1.0-1")
	if _, err := open(dir); err == nil || err.Error() != "kernel in "+dir+" is neither of amd64 nor of arm64" {
		t.Errorf("error %v", err)
	}
}

func TestSeriesOfAnotherArchitectureIsRefused(t *testing.T) {
	_, err := Find(t.Context(), "6.12:riscv64", t.TempDir())
	if want := `kernel 6.12:riscv64: unknown architecture "riscv64", want amd64 or arm64`; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

func TestPackageWithoutImageIsNoKernel(t *testing.T) {
	dir := unpacked(t, "lib/modules/6.1.0-1/modules.builtin")
	if _, err := open(dir); err == nil || err.Error() != "0 files boot/vmlinuz-* in "+dir+", want 1" {
		t.Errorf("error %v", err)
	}
}

func TestPackageWithoutModulesIsNoKernel(t *testing.T) {
	dir := unpacked(t, "boot/vmlinuz-6.1.0-1")
	write(t, dir+"/boot/config-6.1.0-1", "CONFIG_ARM64=y\n")
	if _, err := open(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want %v", err, fs.ErrNotExist)
	}
}

func TestOlderPackagesOfTheSeriesLeaveTheCache(t *testing.T) {
	const (
		old   = "linux-image-6.1.0-9-cloud-amd64_aa"
		moved = "linux-image-6.1.0-56-cloud-amd64_bb"
		kept  = "linux-image-6.1.0-56-cloud-amd64_cc"
		other = "linux-image-6.12.1+deb12-cloud-amd64_dd"
	)
	cache := unpacked(t, "lock", old+"/x", moved+"/x", kept+"/x", other+"/x")
	if err := removeOlder(cache, packagePattern("6.1", "amd64"), filepath.Join(cache, kept)); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(cache)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if want := []string{kept, other, "lock"}; !slices.Equal(got, want) {
		t.Errorf("cache holds %q, want %q", got, want)
	}
}
