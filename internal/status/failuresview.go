package status

import (
	"fmt"
	"net/netip"
	"slices"
)

// A failuresView is /failures as HTML; the JSON form is that of its FailuresPage alone.
type failuresView struct {
	*FailuresPage
	pageView
}

func (v *failuresView) data() any { return v.FailuresPage }

// FailedParts are the parts that should be there and are not.
func (v *failuresView) FailedParts() []string { return failedParts(v.Parts) }

// OffParts are the parts that are switched off.
func (v *failuresView) OffParts() string { return offParts(v.Parts) }

// LackingFeatures are what does not work here.
func (v *failuresView) LackingFeatures() []string { return lackingFeatures(v.Features) }

// Summary says what the page is about.
func (v *failuresView) Summary() string {
	return "bind() calls on this host that failed since the exporter started, the latest first. Repeats are one line."
}

// A section is a table.
type section struct {
	Title string
	Rows  []*FailureRow
}

// Sections are the failures on watched ports, and then the others: whoever makes a storm of
// those does not hide the former.
func (v *failuresView) Sections() []section {
	all := []section{{Title: "On watched ports"}, {Title: "On other ports, and in network namespaces that are not watched"}}
	for i := range v.Failures {
		r, at := &v.Failures[i], 1
		if r.Watched {
			at = 0
		}
		all[at].Rows = append(all[at].Rows, r)
	}
	return slices.DeleteFunc(all, func(s section) bool { return len(s.Rows) == 0 })
}

// EmptyText says why there is none.
func (v *failuresView) EmptyText() string {
	switch {
	case len(v.Parts) > 0:
		return "Whether binds have failed is not known."
	case v.Filtered():
		return "No failed bind like that since the exporter started."
	default:
		return "No bind has failed since the exporter started."
	}
}

// EmptyLevel is how good that is.
func (v *failuresView) EmptyLevel() Level {
	if len(v.Parts) > 0 {
		return warn
	}
	return good
}

// LostText says that there were more.
func (v *failuresView) LostText() string {
	if v.Lost == nil || *v.Lost == 0 {
		return ""
	}
	return fmt.Sprintf("Details of %d more were lost: they came too fast.", *v.Lost)
}

// Level says whether somebody watches the port.
func (r *FailureRow) Level() Level {
	if r.Watched {
		return bad
	}
	return none
}

// Where is the address and port that were asked for.
func (r *FailureRow) Where() string {
	if r.Port == nil {
		return "address not known"
	}
	where := netip.AddrPortFrom(*r.Address, *r.Port).String()
	if r.Ifindex != 0 {
		where += fmt.Sprintf(" on interface %d", r.Ifindex)
	}
	return where
}

// NetnsText says where it was, unless in the exporter's own network namespace.
func (r *FailureRow) NetnsText() string {
	switch {
	case r.Netns == nil:
		return fmt.Sprintf("network namespace %d, not watched", r.NetnsInode)
	case *r.Netns == "":
		return ""
	default:
		return "network namespace " + name(*r.Netns)
	}
}

// OwnerText says who that was.
func (r *FailureRow) OwnerText() string { return ownerText(r.Owner) }

// OwnerPlace says what that belongs to.
func (r *FailureRow) OwnerPlace() string { return ownerPlace(r.Owner) }

// UserText says as whom.
func (r *FailureRow) UserText() string {
	if r.UID == nil {
		return ""
	}
	return fmt.Sprintf("uid %d", *r.UID)
}

// Flags are remarks on the socket.
func (r *FailureRow) Flags() []Tag {
	if r.Errno != "EADDRINUSE" {
		return nil
	}
	return flagTags(r.ReuseAddr, r.ReusePort)
}
