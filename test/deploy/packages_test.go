package deploy

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/mounts"
)

// release builds what a release consists of, for this architecture.
func release(t *testing.T, version string) string {
	t.Helper()
	kerneltest.RequireCommand(t, "nfpm")
	kerneltest.RequireCommand(t, "make")
	dir := t.TempDir()
	cmd := exec.Command("bash", "../../deploy/release", dir, goEnv(t, "GOARCH"))
	cmd.Env = append(os.Environ(), "VERSION="+version, "SOURCE_DATE_EPOCH=1700000000", "REVISION=0123456789abcdef", "BRANCH=main", "BUILD_DATE=20231114-22:13:20")
	run(t, cmd)
	return dir
}

// only is the one file of a kind.
func only(t *testing.T, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: %v, %v", pattern, found, err)
	}
	return found[0]
}

func TestReleases(t *testing.T) {
	older, newer := release(t, "1.2.3"), release(t, "1.2.4")
	t.Run("identical", func(t *testing.T) { identical(t, older, release(t, "1.2.3")) })
	t.Run("deb", func(t *testing.T) {
		installDeb(t, only(t, older+"/*.deb"), only(t, newer+"/*.deb"))
	})
	t.Run("rpm", func(t *testing.T) {
		installRPM(t, only(t, older+"/*.rpm"), only(t, newer+"/*.rpm"))
	})
}

func identical(t *testing.T, first, second string) {
	t.Helper()
	entries, err := os.ReadDir(first)
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, entry := range entries {
		kinds = append(kinds, filepath.Ext(entry.Name()))
		if !bytes.Equal([]byte(read(t, first+"/"+entry.Name())), []byte(read(t, second+"/"+entry.Name()))) {
			t.Errorf("%s differs", entry.Name())
		}
		if info, err := entry.Info(); err == nil {
			t.Logf("%s: %d bytes", entry.Name(), info.Size())
		}
	}
	slices.Sort(kinds)
	if !slices.Equal(kinds, []string{"", ".deb", ".gz", ".rpm"}) {
		t.Errorf("a release has %v", entries)
	}
	cmd := exec.Command("sha256sum", "--check", "--strict", "SHA256SUMS")
	cmd.Dir = first
	if out := run(t, cmd); strings.Count(out, ": OK\n") != len(entries)-1 {
		t.Errorf("checksums:\n%s", out)
	}
}

// A host is this machine's root, in which all that is written goes to memory.
type host string

func newHost(t *testing.T) host {
	t.Helper()
	kerneltest.RequireRoot(t)
	dir := t.TempDir()
	mount := func(source, target, fstype string, flags uintptr, data string) {
		t.Helper()
		if err := unix.Mount(source, target, fstype, flags, data); err != nil {
			kerneltest.Skip(t, "mount %s on %s: %v", fstype, target, err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
				t.Errorf("unmount %s: %v", target, err)
			}
		})
	}
	mount("tmpfs", dir, "tmpfs", 0, "")
	for _, name := range []string{"upper", "work", "root", "packages"} {
		if err := os.Mkdir(dir+"/"+name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	root := dir + "/root"
	mount("overlay", root, "overlay", 0, "lowerdir=/,upperdir="+dir+"/upper,workdir="+dir+"/work")
	for _, name := range []string{"/proc", "/dev", mounts.Tracefs} {
		if err := os.MkdirAll(root+name, 0o755); err != nil {
			t.Fatal(err)
		}
		mount(name, root+name, "", unix.MS_BIND, "")
	}
	// Not even a host of systemd's has it running in there.
	if err := os.RemoveAll(root + "/run/systemd"); err != nil {
		t.Fatal(err)
	}
	return host(root)
}

// do runs a shell's line on the host.
func (h host) do(t *testing.T, line string) string {
	t.Helper()
	cmd := exec.Command("chroot", string(h), "/bin/sh", "-ec", line)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C")
	return run(t, cmd)
}

// take copies a package to the host.
func (h host) take(t *testing.T, path string) string {
	t.Helper()
	to := "/tmp/" + filepath.Base(path)
	write(t, string(h)+to, read(t, path))
	return to
}

func (h host) has(path string) bool {
	_, err := os.Lstat(string(h) + path)
	return err == nil
}

const defaults = "/etc/default/sockstate_exporter"

// check runs what was installed, as the user that was made, with the command line of the unit.
func (h host) check(t *testing.T, version string) {
	t.Helper()
	for _, path := range []string{"/usr/bin/sockstate_exporter", "/usr/lib/systemd/system/sockstate_exporter.service", "/usr/lib/systemd/system/sockstate_exporter.socket", defaults} {
		if !h.has(path) {
			t.Errorf("no %s", path)
		}
	}
	if got := h.do(t, "getent passwd sockstate_exporter"); !strings.HasSuffix(got, ":/nonexistent:/usr/sbin/nologin\n") {
		t.Errorf("the user is %q", got)
	}
	if got := h.do(t, "gzip -dc /usr/share/man/man1/sockstate_exporter.1.gz"); !strings.HasPrefix(got, `.TH sockstate_exporter 1 "2023-11-14" "sockstate_exporter `+version+`"`+"\n") {
		t.Errorf("the man page starts %.200q", got)
	}
	u := parseUnits(t, string(h)+"/usr/lib/systemd/system/sockstate_exporter.service")
	ns := kerneltest.New(t)
	cmd := ns.Command(t, "chroot", "--userspec="+u.words("User")[0]+":"+u.words("Group")[0], string(h),
		"/bin/sh", "-ec", ". "+defaults+"; exec "+u["Service.ExecStart"][0])
	e := start(t, ns, cmd)
	e.checkWorks(t)
	metrics := e.metrics(t)
	cmd.Kill()
	for _, want := range []string{`version="` + version + `"`, `port="4840",protocol="tcp",source="flag"`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics without %s", want)
		}
	}
}

func installDeb(t *testing.T, older, newer string) {
	t.Helper()
	kerneltest.RequireCommand(t, "dpkg")
	h := newHost(t)
	older, newer = h.take(t, older), h.take(t, newer)

	h.do(t, "dpkg -i "+older)
	h.do(t, `echo 'ARGS="--watch.port=4840"' >`+defaults)
	h.check(t, "1.2.3")
	h.do(t, "dpkg -i "+newer)
	h.check(t, "1.2.4")
	if got := h.do(t, "dpkg --verify sockstate_exporter"); got != "??5?????? c "+defaults+"\n" {
		t.Errorf("dpkg finds changed:\n%s", got)
	}
	h.do(t, "dpkg -r sockstate_exporter")
	if h.has("/usr/bin/sockstate_exporter") || !h.has(defaults) {
		t.Error("removing is to leave the configuration, and only that")
	}
	h.do(t, "dpkg --purge sockstate_exporter")
	if h.has(defaults) || h.has("/usr/share/doc/sockstate_exporter") {
		t.Error("purging left something")
	}
}

func installRPM(t *testing.T, older, newer string) {
	t.Helper()
	kerneltest.RequireCommand(t, "rpm")
	h := newHost(t)
	older, newer = h.take(t, older), h.take(t, newer)

	// This is no rpm host: its packages are not known to rpm.
	const rpm = "rpm --nodeps --dbpath /tmp/rpm "
	h.do(t, rpm+"-i "+older)
	h.do(t, `echo 'ARGS="--watch.port=4840"' >`+defaults)
	h.check(t, "1.2.3")
	h.do(t, rpm+"-U "+newer)
	h.check(t, "1.2.4")
	if got := h.do(t, "rpm --dbpath /tmp/rpm -qc sockstate_exporter"); got != defaults+"\n" {
		t.Errorf("configuration files: %q", got)
	}
	h.do(t, rpm+"-e sockstate_exporter")
	if h.has("/usr/bin/sockstate_exporter") || !h.has(defaults+".rpmsave") {
		t.Error("erasing is to leave the changed configuration, and only that")
	}
}
