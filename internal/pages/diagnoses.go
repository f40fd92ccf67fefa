package pages

import (
	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/sock"
)

// A DiagnosesPage says what each code of a diagnosis means.
type DiagnosesPage struct {
	page

	Diagnoses []DiagnosisEntry `json:"diagnoses"`
}

// A DiagnosisEntry is what is always true of a code. Text between backticks is a command or a name.
type DiagnosisEntry struct {
	Code   codes.Code `json:"code"`
	Short  string     `json:"short"`
	Means  string     `json:"means"`
	See    string     `json:"see"`
	Remedy string     `json:"remedy"`
}

func newDiagnosesPage(q request) *DiagnosesPage {
	p := &DiagnosesPage{page: newPage("diagnoses", q)}
	for _, e := range codes.Catalogue() {
		p.Diagnoses = append(p.Diagnoses, DiagnosisEntry{e.Code, e.Short, e.Means, e.See, e.Remedy})
	}
	return p
}

// Title is the title of the page.
func (*DiagnosesPage) Title() string { return "Diagnoses" }

// LackingFeatures are no matter here.
func (*DiagnosesPage) LackingFeatures() []sock.Feature { return nil }
