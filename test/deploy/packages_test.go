package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/mounts"
)

// A host is a root directory with a system: this machine's, in which all that is written goes to
// memory, or a fresh one.
type host string

func newHost(t *testing.T) host {
	t.Helper()
	kerneltest.RequireRoot(t)
	dir := t.TempDir()
	mount(t, "tmpfs", dir, "tmpfs", 0, "")
	for _, name := range []string{"upper", "work", "root", "packages"} {
		if err := os.Mkdir(dir+"/"+name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	h := host(dir + "/root")
	mount(t, "overlay", string(h), "overlay", 0, "lowerdir=/,upperdir="+dir+"/upper,workdir="+dir+"/work")
	h.mountKernel(t)
	// Not even a host of systemd's has it running in there.
	if err := os.RemoveAll(string(h) + "/run/systemd"); err != nil {
		t.Fatal(err)
	}
	return h
}

func mount(t *testing.T, source, target, fstype string, flags uintptr, data string) {
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

// mountKernel mounts what the kernel has there.
func (h host) mountKernel(t *testing.T) {
	t.Helper()
	for _, name := range []string{"/proc", "/dev", mounts.Tracefs} {
		if err := os.MkdirAll(string(h)+name, 0o755); err != nil {
			t.Fatal(err)
		}
		mount(t, name, string(h)+name, "", unix.MS_BIND, "")
	}
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

const (
	defaults = "/etc/default/sockstate_exporter"
	share    = "/usr/share/sockstate-exporter"
)

// check runs what was installed, as the user that was made, with the command line of the unit.
func (h host) check(t *testing.T, version string) {
	t.Helper()
	for _, path := range []string{
		"/usr/bin/sockstate_exporter", "/usr/lib/systemd/system/sockstate_exporter.service", "/usr/lib/systemd/system/sockstate_exporter.socket", defaults,
		share + "/alerts/sockstate.rules.yml", share + "/dashboards/port.json",
		"/usr/share/man/man1/sockstate_exporter.1.gz", "/usr/share/man/man1/sockstate_exporter-check.1.gz",
		"/usr/share/doc/sockstate-exporter/copyright",
	} {
		if !h.has(path) {
			t.Errorf("no %s", path)
		}
	}
	if got := h.do(t, "getent passwd sockstate_exporter"); !strings.HasSuffix(got, ":/nonexistent:/usr/sbin/nologin\n") {
		t.Errorf("the user is %q", got)
	}
	checkCompletion(t, string(h)+"/usr/share/bash-completion/completions/sockstate_exporter", string(h)+"/usr/bin")
	checkLinks(t, string(h)+share)
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

// oldName makes a package with the name that it had in 0.1, which had an underscore.
func (h host) oldName(t *testing.T) string {
	t.Helper()
	inside := t.TempDir() // a name that the host has for nothing else
	tree := string(h) + inside
	write(t, tree+"/DEBIAN/control", "Package: sockstate_exporter\nVersion: 0.1.0\nArchitecture: all\nMaintainer: nobody <nobody@localhost>\nDescription: old\n")
	write(t, tree+"/usr/bin/sockstate_exporter", "")
	h.do(t, "dpkg-deb --nocheck --build "+inside+" "+inside+".deb")
	return inside + ".deb"
}

func installDeb(t *testing.T, h host, older, newer string) {
	t.Helper()
	fields := run(t, exec.Command(kerneltest.RequireCommand(t, "dpkg-deb"), "--field", older, "Package", "Version", "Maintainer", "Homepage"))
	if want := "Package: sockstate-exporter\nVersion: 1.2.3\nMaintainer: " + maintainer + "\nHomepage: " + homepage + "\n"; fields != want {
		t.Errorf("fields of the deb:\n%s", fields)
	}
	older, newer = h.take(t, older), h.take(t, newer)

	h.do(t, "dpkg -i "+h.oldName(t))
	h.do(t, "dpkg -i "+older)
	if got := h.do(t, "dpkg-query -W -f '${Package} ${db:Status-Status}\n' 'sockstate*'"); got != "sockstate-exporter installed\nsockstate_exporter not-installed\n" {
		t.Errorf("after the package that has another name, there are\n%s", got)
	}
	h.do(t, `echo 'ARGS="--watch.port=4840"' >`+defaults)
	h.check(t, "1.2.3")
	h.do(t, "dpkg -i "+newer)
	h.check(t, "1.2.4")
	h.monitor(t)
	if got := h.do(t, "dpkg --verify sockstate-exporter"); got != "??5?????? c "+defaults+"\n" {
		t.Errorf("dpkg finds changed:\n%s", got)
	}
	h.do(t, "dpkg -r sockstate-exporter")
	if h.has("/usr/bin/sockstate_exporter") || !h.has(defaults) {
		t.Error("removing is to leave the configuration, and only that")
	}
	h.do(t, "dpkg --purge sockstate-exporter")
	if h.has(defaults) || h.has("/usr/share/doc/sockstate-exporter") || h.has(share) {
		t.Error("purging left something")
	}
}

func installRPM(t *testing.T, older, newer string) {
	t.Helper()
	fields := run(t, exec.Command(kerneltest.RequireCommand(t, "rpm"), "--query", "--package", older,
		"--queryformat", `%{NAME} %{VERSION} %{PACKAGER} %{URL} [%{OBSOLETES}]`))
	if want := "sockstate-exporter 1.2.3 " + maintainer + " " + homepage + " sockstate_exporter"; fields != want {
		t.Errorf("fields of the rpm: %s", fields)
	}
	h := newHost(t)
	older, newer = h.take(t, older), h.take(t, newer)

	// This is no rpm host: its packages are not known to rpm.
	const rpm = "rpm --nodeps --dbpath /tmp/sockstate-test-rpm "
	h.do(t, rpm+"-i "+older)
	h.do(t, `echo 'ARGS="--watch.port=4840"' >`+defaults)
	h.check(t, "1.2.3")
	h.do(t, rpm+"-U "+newer)
	h.check(t, "1.2.4")
	if got := h.do(t, "rpm --dbpath /tmp/sockstate-test-rpm -qc sockstate-exporter"); got != defaults+"\n" {
		t.Errorf("configuration files: %q", got)
	}
	h.do(t, rpm+"-e sockstate-exporter")
	if h.has("/usr/bin/sockstate_exporter") || !h.has(defaults+".rpmsave") {
		t.Error("erasing is to leave the changed configuration, and only that")
	}
}
