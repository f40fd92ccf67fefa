package deploy

import (
	"path/filepath"
	"regexp"
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
			writes := 0
			for _, level := range job.Permissions {
				if level == "write" {
					writes++
				}
			}
			if writes > 1 {
				t.Errorf("%s: %s may write %d things", path, name, writes)
			}
		}
	}
}
