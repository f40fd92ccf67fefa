package launch

import "testing"

func TestSumAddsUpWhatHasTheLabels(t *testing.T) {
	const m Metrics = `# HELP m Some help.
m{port="1",state="time_wait"} 3
m{port="1",state="listen"} 1
m{name="a b",state="time_wait"} 4e+01
m_total 5
n 6
`
	if got, err := m.Sum("m", `state="time_wait"`); got != 43 || err != nil {
		t.Errorf("sum %v, %v, want 43", got, err)
	}
	if got, err := m.Sum("n"); got != 6 || err != nil {
		t.Errorf("sum %v, %v, want 6", got, err)
	}
	const named = `name=""`
	if got, err := m.Sum("m", named); got != 4 || err != nil {
		t.Errorf("sum without a name %v, %v, want 4", got, err)
	}
	const want = `no m with ["state=\"close\""]`
	if _, err := m.Sum("m", `state="close"`); err == nil || err.Error() != want {
		t.Errorf("error %v for a sample that is not there, want %s", err, want)
	}
	if got := m.Series("m"); got != 4 {
		t.Errorf("%d series, want 4", got)
	}
}
