// Package texts has what the pages do with texts and times. It is pure.
package texts

import (
	"fmt"
	"strings"
	"time"

	"sockstate_exporter/internal/diagnosis/codes"
)

// Clock is a time of UTC, to the second.
func Clock(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") }

// Ago is how long ago something was, in the largest unit that says enough.
func Ago(seconds float64) string {
	switch s := int64(seconds); {
	case s < 120:
		return fmt.Sprintf("%d s ago", s)
	case s < 2*3600:
		return fmt.Sprintf("%d min ago", s/60)
	case s < 2*86400:
		return fmt.Sprintf("%d h ago", s/3600)
	default:
		return fmt.Sprintf("%d days ago", s/86400)
	}
}

// A Span is a piece of text, or of code.
type Span struct {
	Text string
	Code bool
}

// Marked tells text from what is between backticks.
func Marked(text string) []Span {
	var spans []Span
	for i, piece := range strings.Split(text, "`") {
		spans = append(spans, Span{piece, i%2 == 1})
	}
	return spans
}

// Advice is a line of advice, and the code that /diagnoses explains; empty: none.
type Advice struct{ Text, Code string }

// SplitAdvice cuts the reference off that the line of a diagnosis ends with.
func SplitAdvice(line string) Advice {
	text, code := codes.CutReference(line)
	return Advice{text, string(code)}
}
