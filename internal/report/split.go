package report

import (
	"sockstate_exporter/internal/diagnosis"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/split"
)

// newSplit says that a port is split, by its listeners, or by what is known of failed binds.
func newSplit(groups []ports.Group, known []split.Port) *Diagnosis {
	var h diagnosis.Halves
	var apart bool
	if h.IPv4, h.IPv6, apart = split.Apart(groups); apart {
		d := diagnosis.OfSplit(&h)
		return NewDiagnosis(&d)
	}
	for i := range known {
		if k := &known[i]; k.Now && k.Missing != 0 {
			d := diagnosis.OfSplit(&diagnosis.Halves{IPv4: k.IPv4, IPv6: k.IPv6, Missing: k.Missing, Failed: true})
			return NewDiagnosis(&d)
		}
	}
	return nil
}

// onlyIPv6 says that IPv4 may be missing; nil: it is not.
func onlyIPv6(groups []ports.Group) *Diagnosis {
	if !OnlyIPv6(groups) {
		return nil
	}
	h := diagnosis.Halves{Missing: sock.FamilyIPv4}
	for i := range groups {
		h.IPv6 = append(h.IPv6, groups[i].AllOwners()...)
	}
	d := diagnosis.OfSplit(&h)
	return NewDiagnosis(&d)
}
