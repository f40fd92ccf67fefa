package pages

import (
	"sockstate_exporter/internal/pages/missing"
)

// An IndexPage says where everything is.
type IndexPage struct {
	page
	missing.Report

	ExporterVersion string `json:"exporter_version"`
}

func newIndexPage(q request, version string) *IndexPage {
	return &IndexPage{page: newPage("", q), Report: missing.New(q.features, q.hint), ExporterVersion: version}
}

// Title is the title of the page.
func (*IndexPage) Title() string { return "Socket state" }

// LackingFeatures are in the list of all features.
func (*IndexPage) LackingFeatures() []string { return nil }

// FeatureLines say which features work on this host.
func (p *IndexPage) FeatureLines() []string {
	var out []string
	for i := range p.Features {
		out = append(out, missing.Line(&p.Features[i]))
	}
	return out
}
