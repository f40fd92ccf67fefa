package report

import (
	"slices"

	"sockstate_exporter/internal/diagnosis"
	"sockstate_exporter/internal/diagnosis/codes"
)

// A Diagnosis says why a call failed. docs/pages.md documents its JSON form.
type Diagnosis struct {
	Code     codes.Code `json:"code"`
	Sentence string     `json:"sentence"`
	Remedy   string     `json:"remedy"`
	// Until says what ends the trouble, and Seconds how long that takes where a timer does.
	Until   diagnosis.EndKind `json:"until"`
	Seconds *float64          `json:"seconds"`
	Holder  *Owner            `json:"holder"` // nil: not known
	State   string            `json:"state"`  // of the socket in the way
	Peer    string            `json:"peer"`   // of a connection
	// Afterwards says that the socket was not seen as the call failed, but a moment later.
	Afterwards bool `json:"afterwards"`

	line string
}

// NewDiagnosis returns nil where nothing is known.
func NewDiagnosis(d *diagnosis.Diagnosis) *Diagnosis {
	if d.Code == "" {
		return nil
	}
	out := &Diagnosis{
		Code: d.Code, Sentence: d.Sentence, Remedy: d.Remedy, Until: d.End.Kind, Holder: NewOwner(&d.Holder),
		State: d.State, Peer: d.Peer, Afterwards: d.Afterwards, line: d.Line(),
	}
	if out.Until == "" {
		out.Until = diagnosis.EndUnknown
	}
	if out.Until == diagnosis.EndTime || out.Until == diagnosis.EndAtLeast {
		out.Seconds = new(Seconds(d.End.Left))
	}
	return out
}

// Line is the diagnosis in one line, with the section of the documentation that explains it.
func (d *Diagnosis) Line() string { return d.line + d.Code.Reference() }

// add adds a diagnosis that says something new. One of the same socket, seen beside others, does not.
func (p *PortReport) add(d *Diagnosis) {
	same := func(o *Diagnosis) bool {
		return o.Line() == d.Line() || o.Code == d.Code && o.Remedy == d.Remedy && o.Holder != nil && d.Holder != nil && *o.Holder == *d.Holder
	}
	if d == nil || slices.ContainsFunc(p.told, same) {
		return
	}
	p.Advice, p.told = append(p.Advice, d.Line()), append(p.told, d)
}
