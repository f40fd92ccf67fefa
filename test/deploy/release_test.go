package deploy

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sockstate_exporter/internal/kerneltest"
)

const (
	root       = "../.."
	homepage   = "https://sockstate.example.com"
	maintainer = "Some Body <body@example.com>"
)

// release builds what a release of the tree consists of, for this architecture.
func release(t *testing.T, tree, version string) string {
	t.Helper()
	for _, name := range []string{"nfpm", "cyclonedx-gomod", "make"} {
		kerneltest.RequireCommand(t, name)
	}
	dir := t.TempDir()
	cmd := exec.Command("bash", tree+"/deploy/release", dir, goEnv(t, "GOARCH"))
	cmd.Env = append(os.Environ(), "VERSION="+version, "SOURCE_DATE_EPOCH=1700000000", "REVISION=0123456789abcdef", "BRANCH=main", "BUILD_DATE=20231114-22:13:20",
		"HOMEPAGE="+homepage, "MAINTAINER="+maintainer)
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
	older, newer := release(t, root, "1.2.3"), release(t, root, "1.2.4")
	t.Run("identical", func(t *testing.T) { identical(t, older, release(t, copyOfTree(t), "1.2.3")) })
	t.Run("SBOM", func(t *testing.T) { checkSBOM(t, only(t, older+"/*.cdx.json")) })
	t.Run("tarball", func(t *testing.T) { checkTarball(t, unpack(t, only(t, older+"/*.tar.gz"))) })
	t.Run("deb", func(t *testing.T) {
		installDeb(t, debianHost(t), only(t, older+"/*.deb"), only(t, newer+"/*.deb"))
	})
	t.Run("rpm", func(t *testing.T) {
		installRPM(t, only(t, older+"/*.rpm"), only(t, newer+"/*.rpm"))
	})
}

// copyOfTree copies the sources to a folder with another name, which git knows nothing of.
func copyOfTree(t *testing.T) string {
	t.Helper()
	kerneltest.RequireCommand(t, "git")
	dir := t.TempDir()
	run(t, exec.Command("bash", "-ec", `
		cd "$1"
		git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents --target-directory="$2"
		git -C "$2" init --quiet`, "-", root, dir))
	return dir
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
	if !slices.Equal(kinds, []string{"", ".deb", ".gz", ".json", ".rpm"}) {
		t.Errorf("a release has %v", entries)
	}
	cmd := exec.Command("sha256sum", "--check", "--strict", "SHA256SUMS")
	cmd.Dir = first
	if out := run(t, cmd); strings.Count(out, ": OK\n") != len(entries)-1 {
		t.Errorf("checksums:\n%s", out)
	}
}

// checkSBOM compares the list of components with what the binary says of itself.
func checkSBOM(t *testing.T, path string) {
	t.Helper()
	type component struct{ Name, Version string }
	var sbom struct {
		BOMFormat string
		Metadata  struct{ Component component }
		// The modules.
		Components []component
	}
	if err := json.Unmarshal([]byte(read(t, path)), &sbom); err != nil {
		t.Fatal(err)
	}
	if sbom.BOMFormat != "CycloneDX" || sbom.Metadata.Component.Version != "v1.2.3" {
		t.Errorf("%s of %+v", sbom.BOMFormat, sbom.Metadata.Component)
	}
	dir := unpack(t, only(t, filepath.Dir(path)+"/*.tar.gz"))
	required := regexp.MustCompile(`(?m)^\tdep\t(\S+)\t(\S+)`).
		FindAllStringSubmatch(run(t, exec.Command("go", "version", "-m", dir+"/sockstate_exporter")), -1)
	for _, module := range required {
		if !slices.Contains(sbom.Components, component{module[1], module[2]}) {
			t.Errorf("without %s %s", module[1], module[2])
		}
	}
	if len(required) < 10 || !slices.ContainsFunc(sbom.Components, func(c component) bool { return c.Name == "std" }) {
		t.Errorf("%d modules, components %v", len(required), sbom.Components)
	}
}

// unpack gives the folder in a tarball, which every user may enter.
func unpack(t *testing.T, tarball string) string {
	t.Helper()
	dir := t.TempDir()
	for _, path := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	run(t, exec.Command("tar", "--extract", "--file", tarball, "--directory", dir))
	return only(t, dir+"/*")
}

func checkTarball(t *testing.T, dir string) {
	t.Helper()
	for _, name := range []string{"sockstate_exporter", "LICENSE", "alerts/sockstate.rules.yml", "dashboards/fleet.json", "completions/_sockstate_exporter"} {
		if _, err := os.Stat(dir + "/" + name); err != nil {
			t.Error(err)
		}
	}
	checkLinks(t, dir)
	for name, want := range map[string]string{"sockstate_exporter": "--watch.port", "sockstate_exporter-check": "--restart"} {
		page := run(t, exec.Command("gzip", "-dc", dir+"/man/"+name+".1.gz"))
		if !strings.HasPrefix(page, `.TH `+name+` 1 "2023-11-14" "sockstate_exporter 1.2.3"`+"\n") || !strings.Contains(page, want) {
			t.Errorf("the man page %s starts %.200q", name, page)
		}
	}
	checkCompletion(t, dir+"/completions/sockstate_exporter.bash", dir)
	checkCommandsOfREADME(t, dir)
}

// checkLinks fails for links to files that are not there.
func checkLinks(t *testing.T, dir string) {
	t.Helper()
	links, pages := 0, 0
	for _, page := range strings.Fields(run(t, exec.Command("find", dir, "-name", "*.md"))) {
		pages++
		for _, link := range regexp.MustCompile(`\]\(([^)#:\s]+)[^):]*\)`).FindAllStringSubmatch(read(t, page), -1) {
			links++
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), link[1])); err != nil {
				t.Errorf("%s: %v", page, err)
			}
		}
	}
	if links < 100 || pages < 20 {
		t.Errorf("%d links on %d pages", links, pages)
	}
}

// checkCompletion asks bash what comes next, as a user does who presses Tab.
func checkCompletion(t *testing.T, script, bin string) {
	t.Helper()
	for line, want := range map[string]string{
		"sockstate_exporter ch":           "check",
		"sockstate_exporter --watch.p":    "--watch.port",
		"sockstate_exporter check --rest": "--restart",
		"sockstate_exporter check 80 --w": "--wait",
	} {
		cmd := exec.Command("bash", "-ec", `
			PATH=$2:$PATH
			. "$1"
			read -ra COMP_WORDS <<<"$3"
			COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
			_sockstate_exporter "${COMP_WORDS[0]}" "${COMP_WORDS[COMP_CWORD]}"
			echo "${COMPREPLY[@]}"`, "-", script, bin, line)
		if got := run(t, cmd); got != want+"\n" {
			t.Errorf("%s: completed by %q", line, got)
		}
	}
}
