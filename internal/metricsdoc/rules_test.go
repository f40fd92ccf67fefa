package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"sockstate_exporter/internal/diagnosis/codes"
)

func TestRulesAreUpToDate(t *testing.T) {
	const path = "../../alerts/sockstate.rules.yml"
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want, err := fillRules(got)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s does not say what the catalogue says: run `make generate`", path)
	}
	for _, code := range codes.Codes() {
		if !strings.Contains(string(got), `eq $diagnosis "`+string(code)+`" }} `+strings.Fields(code.Short())[0]) {
			t.Errorf("%s: no alert explains %s", path, code)
		}
	}
}

func TestFillRules(t *testing.T) {
	const (
		some = "  x: >-\n    before\n    " + rulesBegin + ": second_listen time_wait */ -}}\n    old\n    " + rulesEnd + "\n    after\n"
		want = "  x: >-\n    before\n    " + rulesBegin + ": second_listen time_wait */ -}}\n" +
			`    {{- if eq $diagnosis "second_listen" }} Another socket that is bound to the port was the first to listen. Stop one of the two servers.
    {{- else if eq $diagnosis "time_wait" }} Connections of the old server are in TIME_WAIT, and the new socket does not set SO_REUSEADDR. Set SO_REUSEADDR before bind().
    {{- end }}
` + "    " + rulesEnd + "\n    after\n"
	)
	got, err := fillRules([]byte(some + some))
	if err != nil || string(got) != want+want {
		t.Errorf("got %v\n%s\nwant\n%s", err, got, want+want)
	}
	for text, want := range map[string]string{
		"groups: []\n":                            "no place for the diagnoses",
		strings.ReplaceAll(some, rulesEnd, ""):    "no place for the diagnoses",
		strings.Replace(some, "time_", "tea_", 1): `"tea_wait" is no diagnosis`,
	} {
		if _, err := fillRules([]byte(text)); err == nil || err.Error() != want {
			t.Errorf("error %v, want %q, of\n%s", err, want, text)
		}
	}
}
