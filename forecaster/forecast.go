package forecaster

import (
	"slices"
	"time"

	"github.com/prometheus/common/model"
)

// Forecast is what a model expects of one series. Quantiles[i][j] is quantile
// Levels[i] at Origin + (j+1)*Step, in the unit of the metric. A Forecast does
// not change once it is stored.
type Forecast struct {
	Labels    model.Metric
	Origin    time.Time // time of the newest sample it was made from
	Step      time.Duration
	Levels    []float64 // rising
	Quantiles [][]float64
	Observed  float64 // the sample at Origin
	Model     string  // Version of the model that made it
}

// End is the last instant the forecast says something about.
func (f Forecast) End() time.Time {
	if len(f.Quantiles) == 0 {
		return f.Origin
	}
	return f.Origin.Add(time.Duration(len(f.Quantiles[0])) * f.Step)
}

// Quantile returns the quantile at the given level for step j (0 is the first
// step after the origin), interpolated linearly between the two levels around
// it. It reports false outside the levels and steps of the forecast.
func (f Forecast) Quantile(level float64, j int) (float64, bool) {
	i, exact := slices.BinarySearch(f.Levels, level)
	if i == len(f.Levels) || i == 0 && !exact || j < 0 || j >= len(f.Quantiles[i]) {
		return 0, false
	}
	if exact {
		return f.Quantiles[i][j], true
	}
	part := (level - f.Levels[i-1]) / (f.Levels[i] - f.Levels[i-1])
	lo, hi := f.Quantiles[i-1][j], f.Quantiles[i][j]
	return lo + part*(hi-lo), true
}

// Peak returns the largest value of the given quantile in (from, to]. The value
// of a step stands for the step that ends with it, so the peak covers the
// interval whole. It reports false when the forecast does not cover it.
func (f Forecast) Peak(level float64, from, to time.Time) (float64, bool) {
	if from.Before(f.Origin) || to.After(f.End()) || !from.Before(to) {
		return 0, false
	}
	first := int(from.Sub(f.Origin) / f.Step)
	last := int((to.Sub(f.Origin) - 1) / f.Step)
	peak := -inf
	for j := first; j <= last; j++ {
		v, ok := f.Quantile(level, j)
		if !ok {
			return 0, false
		}
		peak = max(peak, v)
	}
	return peak, true
}

// valid reports whether every quantile is a finite number and no quantile lies
// below a lower one. It is the last check before a forecast is stored.
func (f Forecast) valid() bool {
	if len(f.Quantiles) != len(f.Levels) || len(f.Levels) == 0 || !observed(f.Observed) {
		return false
	}
	for i, q := range f.Quantiles {
		if len(q) != len(f.Quantiles[0]) || len(q) == 0 {
			return false
		}
		for j, v := range q {
			if !observed(v) || i > 0 && v < f.Quantiles[i-1][j] {
				return false
			}
		}
	}
	return true
}
