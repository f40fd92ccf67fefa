package check

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"

	"sockstate_exporter/internal/report"
	"sockstate_exporter/internal/report/unixreport"
)

// A document is the JSON form.
type document struct {
	report.Report
	Unix []unixreport.Place `json:"unix"`
}

// writeJSON writes the report as documented in docs/check.md. It holds the text of one port at a
// time.
func writeJSON(w io.Writer, j *judgement) error {
	r := j.ports
	frame := document{*r, append([]unixreport.Place{}, j.unix...)}
	frame.Outcome = j.outcome()
	frame.Ports = []report.PortReport{}
	whole, err := indented(frame, "")
	if err != nil {
		return err
	}
	before, after, found := bytes.Cut(whole, []byte("[]"))
	if !found {
		return errors.New("the report has no list of ports")
	}
	out := bufio.NewWriter(w)
	_, _ = out.Write(before) // Flush returns the error
	separator, end := "[", "[]"
	for i := range r.Ports {
		port, err := indented(&r.Ports[i], "    ")
		if err != nil {
			return err
		}
		_, _ = out.WriteString(separator + "\n    ")
		_, _ = out.Write(bytes.TrimSuffix(port, []byte("\n")))
		separator, end = ",", "\n  ]"
	}
	_, _ = out.WriteString(end)
	_, _ = out.Write(after)
	return out.Flush()
}

// indented is JSON with a line feed at the end.
func indented(v any, prefix string) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent(prefix, "  ")
	err := enc.Encode(v)
	return b.Bytes(), err
}
