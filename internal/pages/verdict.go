package pages

import (
	"slices"

	"sockstate_exporter/internal/report"
)

// A Sentence is a verdict in words.
type Sentence struct {
	What    string         `json:"what"` // a restart, or a bind
	Outcome report.Outcome `json:"outcome"`
	Text    string         `json:"text"`
}

// Level is how bad the outcome is.
func (s Sentence) Level() Level {
	switch s.Outcome {
	case report.Free:
		return good
	case report.Blocked:
		return bad
	default:
		return warn
	}
}

const startAgain = "start again"

// judge says whether a restart could bind or, if no listener is known, whether a bind would
// succeed.
func (r *PortRow) judge(port *report.PortReport) {
	r.Outcome = report.Free
	var words sentences
	for i := range port.Restarts {
		restart := &port.Restarts[i]
		r.Outcome = report.Worse(r.Outcome, restart.Answer.Outcome)
		what := "restart"
		if !restart.Listening {
			what = startAgain
			if len(r.Gone) < maxListeners {
				r.Gone = append(r.Gone, *restart)
			}
		}
		words.add(what, restart.Address.String(), &restart.Answer)
	}
	if len(port.Restarts) == 0 {
		for i := range port.Binds {
			b := &port.Binds[i]
			r.Outcome = report.Worse(r.Outcome, b.Without.Outcome)
			switch {
			case b.OtherHalf:
			case b.Without.String() == b.With.String():
				words.add("bind with SO_REUSEADDR or without", b.Place(), &b.With)
			default:
				words.add("bind without SO_REUSEADDR", b.Place(), &b.Without)
				words.add("bind with SO_REUSEADDR", b.Place(), &b.With)
			}
		}
	}
	r.Verdict = words.all()
}

// sentences join the addresses with the same answer.
type sentences []placedSentence

type placedSentence struct {
	Sentence
	places []string
}

func (s *sentences) add(what, place string, a *report.Answer) {
	one := Sentence{What: what, Outcome: a.Outcome, Text: a.String()}
	for i := range *s {
		if same := &(*s)[i]; same.Sentence == one {
			same.places = append(same.places, place)
			return
		}
	}
	*s = append(*s, placedSentence{one, []string{place}})
}

// all are the sentences, the worst first. They name the addresses if the answers differ.
func (s sentences) all() []Sentence {
	different := make(map[string]int)
	for i := range s {
		different[s[i].What]++
	}
	out := make([]Sentence, len(s))
	for i, p := range s {
		out[i] = p.Sentence
		if different[p.What] > 1 || p.What == startAgain {
			slices.Sort(p.places)
			out[i].What += " on " + some(slices.Compact(p.places))
		}
	}
	slices.SortStableFunc(out, func(a, b Sentence) int { return b.Outcome.Compare(a.Outcome) })
	return out
}
