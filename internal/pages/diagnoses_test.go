package pages

import (
	"strings"
	"testing"

	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/snapshot"
)

func TestEachDiagnosisHasASectionThatItsCodeLinksTo(t *testing.T) {
	h := newPages(t, &snapshot.Snapshot{}).Diagnoses()
	html := get(t, h, "/diagnoses")
	var page DiagnosesPage
	decode(t, get(t, h, "/diagnoses?format=json"), &page)
	if len(page.Diagnoses) != len(codes.Catalogue()) || page.Host != "gateway<7>" {
		t.Errorf("%d diagnoses of %q, want %d", len(page.Diagnoses), page.Host, len(codes.Catalogue()))
	}
	for _, d := range page.Diagnoses {
		if d.Short == "" || d.Means == "" || d.Remedy == "" && d.Code != codes.Unknown {
			t.Errorf("incomplete: %+v", d)
		}
		if !strings.Contains(html, `<section id="`+string(d.Code)+`">`) {
			t.Errorf("no section for %s", d.Code)
		}
	}
	for _, want := range []string{
		"<title>Diagnoses of gateway&lt;7&gt;</title>",
		"<code>ss -Htlnp &#39;sport = :PORT&#39;</code> lists the listeners",
	} {
		if !strings.Contains(html, want) {
			t.Errorf("no %q in\n%s", want, html)
		}
	}
	if strings.Contains(html, "`") {
		t.Error("a backtick is left")
	}
}
