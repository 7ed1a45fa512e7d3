package forecaster

import (
	"slices"
	"time"

	"github.com/prometheus/common/model"
)

// Window is all that a model may know of a series at an origin: its samples up
// to and including the origin and, where the rule names a companion, those of
// the companion at the same times. NewWindow is the only way to make one, so
// that no model ever sees a sample later than its origin.
//
// Values keep the metric's own unit: what a model scales, joins and masks is
// its own affair, and differs between models.
type Window struct {
	Labels model.Metric
	Origin time.Time     // time of the newest sample
	Step   time.Duration // spacing of Values and With
	// Values end with the newest sample. A missing sample is NaN; there is no
	// infinity. Read only: they may be shared with the series.
	Values []float64
	// With is the companion on the same grid, of equal length, or nil.
	With []float64
	// Observed is the number of samples in Values that are not missing.
	Observed int
}

// NewWindow cuts s at the given time. The origin is the newest observed sample
// at or before it. The companion with may be the zero Series; otherwise it must
// be on the same step, and counts as missing where it has no sample. It fails
// with ErrNoData when s holds no sample up to then.
func NewWindow(s, with Series, at time.Time) (Window, error) {
	end := min(s.index(at)+1, len(s.Values))
	for end > 0 && !observed(s.Values[end-1]) {
		end--
	}
	if end <= 0 {
		return Window{}, ErrNoData
	}
	w := Window{Labels: s.Labels, Origin: s.Time(end - 1), Step: s.Step, Values: finite(s.Values[:end])}
	for _, v := range w.Values {
		if observed(v) {
			w.Observed++
		}
	}
	if len(with.Values) > 0 && with.Step == s.Step {
		w.With = with.over(s.Start, end)
	}
	return w, nil
}

// Newest is the sample at the origin.
func (w Window) Newest() float64 { return w.Values[len(w.Values)-1] }

// Past returns the sample at i steps after the origin (i <= 0 looks back), or
// NaN where the window holds none.
func (w Window) Past(i int) float64 {
	j := len(w.Values) - 1 + i
	if i > 0 || j < 0 {
		return nan
	}
	return w.Values[j]
}

// over returns the n samples from start on, NaN where s has none.
func (s Series) over(start time.Time, n int) []float64 {
	out := make([]float64, n)
	shift := int(start.Sub(s.Start) / s.Step)
	for i := range out {
		out[i] = nan
		if j := i + shift; j >= 0 && j < len(s.Values) && observed(s.Values[j]) {
			out[i] = s.Values[j]
		}
	}
	return out
}

// finite returns vs with infinities as missing. It copies only when there are
// any.
func finite(vs []float64) []float64 {
	bad := func(v float64) bool { return v == inf || v == -inf }
	if !slices.ContainsFunc(vs, bad) {
		return vs
	}
	out := slices.Clone(vs)
	for i, v := range out {
		if bad(v) {
			out[i] = nan
		}
	}
	return out
}
