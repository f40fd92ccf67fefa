package report

import (
	"slices"
	"strings"

	"sockstate_exporter/internal/words"
)

// A Sentence is a verdict in words.
type Sentence struct {
	What    string  `json:"what"` // a restart, or a bind
	Outcome Outcome `json:"outcome"`
	Text    string  `json:"text"`
}

const startAgain = "start again"

// Verdict says whether a restart could bind or, if no listener is known, whether a bind would
// succeed. The outcome is the worst, for binds the worst without SO_REUSEADDR.
func (p *PortReport) Verdict() (Outcome, []Sentence) {
	worst := Free
	var words sentences
	for i := range p.Restarts {
		r := &p.Restarts[i]
		worst = Worse(worst, r.Answer.Outcome)
		what := "restart"
		if !r.Listening {
			what = startAgain
		}
		words.add(what, r.Address.String(), &r.Answer)
	}
	if len(p.Restarts) > 0 {
		return worst, words.all()
	}
	for i := range p.Binds {
		b := &p.Binds[i]
		worst = Worse(worst, b.Without.Outcome)
		switch {
		case b.OtherHalf:
		case b.Without.String() == b.With.String():
			words.add("bind with SO_REUSEADDR or without", b.Place(), &b.With)
		default:
			words.add("bind without SO_REUSEADDR", b.Place(), &b.Without)
			words.add("bind with SO_REUSEADDR", b.Place(), &b.With)
		}
	}
	return worst, words.all()
}

// sentences join the addresses with the same answer.
type sentences []placedSentence

type placedSentence struct {
	Sentence
	places []string
}

func (s *sentences) add(what, place string, a *Answer) {
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
func (s *sentences) all() []Sentence {
	different := make(map[string]int)
	for i := range *s {
		different[(*s)[i].What]++
	}
	out := make([]Sentence, len(*s))
	for i, p := range *s {
		out[i] = p.Sentence
		if different[p.What] > 1 || p.What == startAgain {
			slices.Sort(p.places)
			out[i].What += " on " + strings.Join(words.FirstOf(slices.Compact(p.places)), ", ")
		}
	}
	slices.SortStableFunc(out, func(a, b Sentence) int { return b.Outcome.Compare(a.Outcome) })
	return out
}
