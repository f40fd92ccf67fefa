package deploy

import (
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/timewait"
)

// A proof is what shows that a command of README works: it is run in the folder of an
// unpacked tarball, or a test elsewhere does what it does ("FOLDER TEST"), or a step of .ci/run.
type proof struct {
	run  func(t *testing.T, dir string)
	test string
	step string
}

func commandsOfREADME() map[string]proof {
	return map[string]proof{
		"./sockstate_exporter":          {run: runExporter},
		"sockstate_exporter check PORT": {run: checkBlockedPort},
		"sockstate_exporter check 4840": {run: checkBlockedPort},
		"check 53/udp":                  {run: checkFree("53/udp")},
		"check /run/app.sock":           {run: checkFree("/run/app.sock")},
		"helm install sockstate-exporter deploy/helm/sockstate-exporter --namespace monitoring --set image.repository=YOUR/IMAGE": {run: renderChart},
		"kubectl apply -n monitoring -f deploy/kubernetes/sockstate_exporter.yaml":                                                {test: "test/chart TestObjectsAreOfTheAPI"},
		"docker build -t sockstate_exporter .":                                                                                    {test: "test/deploy TestImageHoldsAStaticBinaryAndServes"},
		"docker compose -f deploy/compose/compose.yaml up --build":                                                                {test: "test/deploy TestComposedPrometheusTakesItsConfigurationAndRules"},
		"dpkg -i dist/sockstate-exporter_*_amd64.deb":                                                                             {test: "test/deploy TestReleases"},
		"rpm -i dist/sockstate-exporter-*.x86_64.rpm":                                                                             {test: "test/deploy TestReleases"},
		"make release": {test: "test/deploy TestReleases"},
		"systemctl enable --now sockstate_exporter": {test: "test/deploy TestSystemdFindsNothingWrongInTheUnits"},
		"modprobe tcp_diag":                         {test: "internal/snapshot TestWithoutModulesTheRestIsServed"},
		"go run .":                                  {test: "test/exporter TestServesPages"},
		"make demo":                                 {test: "test/demo TestDemoTellsTheStoryAndLeavesNothing"},
		"make":                                      {step: "make build"},
		"make test":                                 {step: "make test"},
	}
}

// checkCommandsOfREADME fails for a command that is not known here, and runs what can be run.
func checkCommandsOfREADME(t *testing.T, dir string) {
	t.Helper()
	known := commandsOfREADME()
	word := regexp.MustCompile(`^(\./sockstate_exporter|sockstate_exporter check|check|make|go|dpkg|rpm|systemctl|docker|helm|kubectl|modprobe)( \S+|$)`)
	// Lines of code, with the prompt or without, and code in a sentence.
	code := regexp.MustCompile("(?m)^    (?:\\$ )?(.*)$|`([^`\n]+)`")
	var found []string
	for _, match := range code.FindAllStringSubmatch(read(t, dir+"/README.md"), -1) {
		command := match[1] + match[2]
		if !word.MatchString(command) || command == "check" || slices.Contains(found, command) {
			continue
		}
		found = append(found, command)
		how, ok := known[command]
		switch {
		case !ok:
			t.Errorf("README has %q, and nothing shows that it works", command)
		case how.run != nil:
			t.Run(command, func(t *testing.T) { how.run(t, dir) })
		case how.step != "":
			if !strings.Contains(read(t, root+"/.ci/run"), how.step) {
				t.Errorf("%s: .ci/run has no step %s", command, how.step)
			}
		default:
			checkTestExists(t, how.test)
		}
	}
	for command := range known {
		if !slices.Contains(found, command) {
			t.Errorf("README has no %q", command)
		}
	}
}

// The modules have no public path yet.
func TestPagesOfferNoModulePath(t *testing.T) {
	if n := len(strings.Fields(read(t, root+"/README.md"))); n > 1500 {
		t.Errorf("README has %d words, want 1,500 at most", n)
	}
	offer := regexp.MustCompile(`go (install|get) \S*sockstate_exporter`)
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".md") {
			if found := offer.FindString(read(t, path)); found != "" {
				t.Errorf("%s says %q", path, found)
			}
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func checkTestExists(t *testing.T, what string) {
	t.Helper()
	folder, name, _ := strings.Cut(what, " ")
	files, err := filepath.Glob(filepath.Join(root, folder, "*_test.go"))
	if err != nil || !slices.ContainsFunc(files, func(file string) bool { return strings.Contains(read(t, file), "func "+name+"(") }) {
		t.Errorf("no %s in %s (%v)", name, folder, err)
	}
}

func runExporter(t *testing.T, dir string) {
	t.Helper()
	ns := kerneltest.New(t)
	e := start(t, ns, ns.Command(t, dir+"/sockstate_exporter"))
	e.checkWorks(t)
	for _, page := range []string{"/", "/ports", "/failures"} {
		if text := e.Get(t, page); !strings.Contains(text, "<title>") {
			t.Errorf("%s: %.100q", page, text)
		}
	}
}

// checkBlockedPort is the story of README, with an ordinary user: the answer and its exit status.
func checkBlockedPort(t *testing.T, dir string) {
	t.Helper()
	ns := kerneltest.New(t)
	timewait.MustMake(t, ns, timewait.Options{Count: 5, Ports: []uint16{4840}})
	out, err := ns.Command(t, dir+"/sockstate_exporter", "check", "4840").As(nobody, nobody).CombinedOutput()
	if err == nil || err.Error() != "exit status 1" || !strings.HasPrefix(string(out), "4840: blocked by 5 sockets in TIME_WAIT, for ") {
		t.Errorf("%v\n%s", err, out)
	}
}

func checkFree(what string) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		if out := kerneltest.New(t).Output(t, dir+"/sockstate_exporter", "check", what); !strings.HasPrefix(out, what+": free") {
			t.Errorf("%s", out)
		}
	}
}

// renderChart renders what `helm install` would send to the cluster.
func renderChart(t *testing.T, dir string) {
	t.Helper()
	helm := kerneltest.RequireCommand(t, "helm")
	out := kerneltest.New(t).Output(t, helm, "template", "sockstate-exporter", dir+"/deploy/helm/sockstate-exporter", "--namespace", "monitoring", "--set", "image.repository=YOUR/IMAGE")
	if !strings.Contains(out, "kind: DaemonSet") || !strings.Contains(out, "YOUR/IMAGE") {
		t.Errorf("%s", out)
	}
}
