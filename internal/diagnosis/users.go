package diagnosis

import (
	"fmt"
	"strings"

	"sockstate_exporter/internal/words"
)

// maxUsers is how many processes a sentence names.
const maxUsers = 3

// by says who has the local ports.
func (t *Taken) by() string {
	if t.Looked == 0 {
		return ""
	}
	var parts []string
	for i := range t.Users[:min(len(t.Users), maxUsers)] {
		u := &t.Users[i]
		parts = append(parts, fmt.Sprintf("%d of %s", u.Sockets, Process(&u.Owner)))
	}
	if t.TimeWait > 0 {
		parts = append(parts, fmt.Sprintf("%d in TIME_WAIT", t.TimeWait))
	}
	if len(parts) == 0 {
		return ""
	}
	return "; " + words.Counted(uint64(t.Looked), "socket on them was", "sockets on them were") + " looked at: " + strings.Join(parts, ", ")
}

// withUsers adds who has the local ports.
func (f *Facts) withUsers(d Diagnosis) Diagnosis {
	by := f.Host.Taken.by()
	if by == "" {
		return d
	}
	d.Sentence += by
	d.Afterwards = true
	if users := f.Host.Taken.Users; len(users) > 0 {
		d.Holder = users[0].Owner
	}
	return d
}
