package texts

import "testing"

func TestAdviceLinksToItsDiagnosis(t *testing.T) {
	for line, want := range map[string]Advice{
		"Wait. (docs/diagnoses.md#time_wait)":                          {"Wait.", "time_wait"},
		"a (docs/diagnoses.md#b) listens. (docs/diagnoses.md#closing)": {"a (docs/diagnoses.md#b) listens.", "closing"},
		"Wait.": {"Wait.", ""},
	} {
		if got := SplitAdvice(line); got != want {
			t.Errorf("%s: got %q, want %q", line, got, want)
		}
	}
}
