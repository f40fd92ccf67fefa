package deploy

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// actionlint checks their syntax (`make lint-workflows`), but not these.
func TestWorkflowsTrustNoTagAndAskForLittle(t *testing.T) {
	paths, err := filepath.Glob("../../.github/workflows/*.yml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no workflows: %v", err)
	}
	pinned := regexp.MustCompile(`^[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$`)
	hashes := make(map[string]string)
	for _, path := range paths {
		text := read(t, path)
		for line := range strings.Lines(text) {
			_, action, ok := strings.Cut(line, "uses: ")
			if !ok {
				continue
			}
			action = strings.TrimSpace(action)
			if !pinned.MatchString(action) {
				t.Errorf("%s: %q is not pinned by its hash, with its version", path, action)
			}
			name, _, _ := strings.Cut(action, "@")
			if other := hashes[name]; other != "" && other != action {
				t.Errorf("%s: both %s and %s", path, other, action)
			}
			hashes[name] = action
		}
		var workflow struct {
			Permissions map[string]string
			Jobs        map[string]struct {
				Permissions map[string]string
				Timeout     int `json:"timeout-minutes"`
				Steps       []step
			}
		}
		if err := yaml.Unmarshal([]byte(text), &workflow); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		if workflow.Permissions == nil {
			t.Errorf("%s: has whatever permissions the repository gives", path)
		}
		for of, level := range workflow.Permissions {
			if level != "read" {
				t.Errorf("%s: every job may %s %s", path, level, of)
			}
		}
		for name, job := range workflow.Jobs {
			if job.Timeout == 0 {
				t.Errorf("%s: %s has no timeout", path, name)
			}
			var writes []string
			for of, level := range job.Permissions {
				if level == "write" && of != "id-token" && of != "attestations" {
					writes = append(writes, of)
				}
			}
			if len(writes) > 1 {
				t.Errorf("%s: %s may write %v", path, name, writes)
			}
			// Whoever has the token can sign in the name of the release.
			if signs := job.Permissions["id-token"] == "write"; signs && runsTheRepository(job.Steps) {
				t.Errorf("%s: %s can sign, and runs what is in the repository", path, name)
			}
		}
	}
}

// A step is one of a job.
type step struct{ Uses, Run string }

func runsTheRepository(steps []step) bool {
	return slices.ContainsFunc(steps, func(s step) bool {
		return strings.HasPrefix(s.Uses, "actions/checkout@") || strings.HasPrefix(s.Uses, "./")
	})
}

// A release has what its users need to trust it: checksums, who signed them, and from what it was built.
func TestReleaseIsSignedBeforeItIsPublished(t *testing.T) {
	var workflow struct {
		Jobs map[string]struct {
			Needs string
			Steps []step
		}
	}
	if err := yaml.Unmarshal([]byte(read(t, "../../.github/workflows/release.yml")), &workflow); err != nil {
		t.Fatal(err)
	}
	if got := workflow.Jobs["publish"].Needs; got != "sign" {
		t.Errorf("publish needs %q", got)
	}
	for job, want := range map[string][]string{
		"files":      {`VERSION="${GITHUB_REF_NAME#v}"`},
		"sign":       {"actions/attest-build-provenance@", "sha256sum --check --strict SHA256SUMS", "cosign sign-blob --yes --bundle SHA256SUMS.sigstore.json SHA256SUMS"},
		"sign-image": {"actions/attest-build-provenance@", `cosign sign --yes "$IMAGE"`},
	} {
		for _, what := range want {
			if !slices.ContainsFunc(workflow.Jobs[job].Steps, func(s step) bool { return strings.Contains(s.Uses+s.Run, what) }) {
				t.Errorf("%s does not do %s", job, what)
			}
		}
	}
}
