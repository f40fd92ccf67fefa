package collector

import (
	"bytes"
	"math"
	"slices"
	"strings"
	"testing"

	"sockstate_exporter/internal/metric"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

// The text is what expfmt writes of the same families, byte for byte, in both formats.
func TestTextIsWhatExpfmtWrites(t *testing.T) {
	c, _ := collectorOf(wholeSnapshot(t))
	odd := metric.Gauge("odd", "Odd values.", "z", "a")
	for _, tt := range []struct {
		name        string
		openMetrics bool
		format      expfmt.FormatType
	}{
		{"text", false, expfmt.TypeTextPlain},
		{"OpenMetrics", true, expfmt.TypeOpenMetrics},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fill := func(s *metric.Sink) {
				snap := c.take(t.Context())
				c.render(&snap, s, 0)
				for _, v := range []float64{
					0, 1, -1, 0.1, 1.5, 999_999, -999_999, 1e6, 1_000_001, 123_456_789, 1 << 53, 1e20, 1e21, 1e-7,
					math.MaxInt64, math.MaxUint64, math.MaxFloat64, math.SmallestNonzeroFloat64, math.Inf(1), math.Inf(-1), math.NaN(),
				} {
					s.Put(odd, v, "z", "")
				}
				for _, v := range []string{"", "\\", "\n", `"`, `a\"b` + "\n", "\\\\n", "ä", "{}", ",="} {
					s.Put(odd, 1, v, "first")
				}
			}
			plain, ours := metric.NewSink(), metric.NewSink()
			fill(plain)
			families, err := plain.Parsed()
			if err != nil {
				t.Fatal(err)
			}
			slices.SortFunc(families, func(a, b *dto.MetricFamily) int { return strings.Compare(a.GetName(), b.GetName()) })
			want := encoded(t, families, expfmt.NewFormat(tt.format))

			ours.Reset(tt.openMetrics)
			fill(ours)
			var got bytes.Buffer
			if err := ours.Write(&got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// A sink that was used before writes nothing of what it had.
func TestSinkIsEmptyAfterReset(t *testing.T) {
	s, m := metric.NewSink(), metric.Gauge("some", "Some.", "label")
	s.Put(m, 1, "old")
	s.Reset(false)
	var got bytes.Buffer
	if err := s.Write(&got); err != nil || got.Len() > 0 || s.Series() != 0 {
		t.Errorf("%d series and %q, error %v; want nothing", s.Series(), got.String(), err)
	}
}
