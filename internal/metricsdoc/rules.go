package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"

	"sockstate_exporter/internal/diagnosis/codes"
)

// The rules have templates between comments that begin and end like this. The first comment may name
// the codes; otherwise it is all of them.
const (
	rulesBegin = `{{- /* What "make generate" writes of internal/diagnosis`
	rulesEnd   = `{{- /* End of what it writes */ -}}`
)

var (
	errNoMarks = errors.New("no place for the diagnoses")

	rulesPlace = regexp.MustCompile(`(?m)^( *)(` + regexp.QuoteMeta(rulesBegin) + `(?:: ([a-z_ ]+))? \*/ -}})\n(?:.*\n)*? *` + regexp.QuoteMeta(rulesEnd) + "\n")
)

// writeRules writes the diagnoses into the annotations of a rule file.
func writeRules(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read rules: %w", err)
	}
	filled, err := fillRules(text)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return write(path, filled)
}

func fillRules(text []byte) ([]byte, error) {
	if n := bytes.Count(text, []byte(rulesBegin)); n == 0 || n != len(rulesPlace.FindAll(text, -1)) {
		return nil, errNoMarks
	}
	var errs []error
	out := rulesPlace.ReplaceAllFunc(text, func(place []byte) []byte {
		m := rulesPlace.FindSubmatch(place)
		entries, err := entriesOf(strings.Fields(string(m[3])))
		errs = append(errs, err)
		return annotation(string(m[1]), string(m[2]), entries)
	})
	return out, errors.Join(errs...)
}

// entriesOf returns the entries of some codes, or all.
func entriesOf(names []string) ([]codes.Entry, error) {
	all := codes.Catalogue()
	if len(names) == 0 {
		return all, nil
	}
	byCode := make(map[string]codes.Entry, len(all))
	for _, e := range all {
		byCode[string(e.Code)] = e
	}
	var out []codes.Entry
	for _, code := range names {
		e, ok := byCode[code]
		if !ok {
			return nil, fmt.Errorf("%q is no diagnosis", code)
		}
		out = append(out, e)
	}
	return out, nil
}

// annotation is a template that says what the diagnosis in $diagnosis means, and what to do.
func annotation(indent, begin string, entries []codes.Entry) []byte {
	var b bytes.Buffer
	line := func(format string, args ...any) { fmt.Fprintf(&b, indent+format+"\n", args...) }
	line("%s", begin)
	verb := "if"
	for _, e := range entries {
		text := strings.ReplaceAll(strings.TrimSpace(e.Short+" "+e.Remedy), "`", "'")
		line("{{- %s eq $diagnosis %q }} %s", verb, e.Code, text)
		verb = "else if"
	}
	line("{{- end }}")
	line("%s", rulesEnd)
	return b.Bytes()
}
