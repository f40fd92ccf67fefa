package debkernel

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

func TestModuleNames(t *testing.T) {
	for path, want := range map[string]string{
		"kernel/net/ipv4/tcp_diag.ko":    "tcp_diag",
		"kernel/net/ipv4/tcp_diag.ko.xz": "tcp_diag",
		"kernel/lib/crc-t10dif.ko\n":     "crc_t10dif",
		"modules.builtin":                "",
	} {
		if got := moduleName(path); got != want {
			t.Errorf("%q is module %q, want %q", path, got, want)
		}
	}
}

func TestDependenciesInModinfo(t *testing.T) {
	for _, tt := range []struct {
		modinfo string
		want    []string
	}{
		{"license=GPL\x00depends=libcrc32c,udp-tunnel\x00name=sctp\x00", []string{"libcrc32c", "udp_tunnel"}},
		{"depends=\x00name=dummy\x00", nil},
		{"softdepends=x\x00", nil},
		{"", nil},
	} {
		if got := parseDepends([]byte(tt.modinfo)); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%q: depends on %q, want %q", tt.modinfo, got, tt.want)
		}
	}
}

func TestFileWithoutModinfoIsNoModule(t *testing.T) {
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dependencies(exe); err == nil || err.Error() != "no section .modinfo" {
		t.Errorf("error %v", err)
	}
}

func TestBuiltinModulesAreNotLoaded(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "modules.builtin"), []byte("kernel/a/tcp_diag.ko\nkernel/b/dummy-x.ko\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Kernel{modules: dir}.Modules(t.Context(), []string{"tcp_diag", "dummy_x"})
	if err != nil || got != nil {
		t.Errorf("loaded %v, %v, want none", got, err)
	}
}

func TestModuleThatTheKernelLacksIsAnError(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "modules.builtin"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Kernel{Release: "6.1", modules: dir}.Modules(t.Context(), []string{"tcp_diag"})
	if err == nil || err.Error() != "kernel 6.1 has no module tcp_diag" {
		t.Errorf("error %v", err)
	}
}
