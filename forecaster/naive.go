package forecaster

import (
	"context"
	"math"
	"slices"
	"time"
)

// The baselines are full models: what every score is measured against, the
// stand-ins of tests, and what serves a series that the network cannot. Their
// median is the textbook point forecast; the other quantiles add the empirical
// quantiles of the errors that the same rule made on the window itself, step by
// step. (Hyndman and Athanasopoulos, Forecasting: Principles and Practice,
// chapters 5.2 and 5.5.)

// errorOrigins is how many of the newest origins of a window a baseline takes
// its own errors from.
const errorOrigins = 288

// Persistence forecasts that everything stays as it is. It needs one sample.
type Persistence struct{}

// Version implements Model.
func (Persistence) Version() string { return "persistence" }

// Shape implements Model.
func (Persistence) Shape() Shape { return naiveShape() }

// Predict implements Model.
func (p Persistence) Predict(ctx context.Context, ws []Window) ([]Forecast, error) {
	return predictNaive(ctx, p, ws, func(w Window) pointFunc {
		last := fillForward(w.Values)
		return func(i, _ int) float64 { return last[i] }
	})
}

// ExponentialSmoothing forecasts the exponentially weighted mean of the past,
// at every step the same. Missing samples leave the mean as it is.
type ExponentialSmoothing struct {
	Alpha float64 // weight of the newest sample, in (0, 1]; DefaultAlpha when zero
}

// DefaultAlpha is the smoothing weight that EVALUATION's figures were made with.
const DefaultAlpha = 0.3

// Version implements Model.
func (ExponentialSmoothing) Version() string { return "exponential-smoothing" }

// Shape implements Model.
func (ExponentialSmoothing) Shape() Shape { return naiveShape() }

// Predict implements Model.
func (e ExponentialSmoothing) Predict(ctx context.Context, ws []Window) ([]Forecast, error) {
	alpha := e.Alpha
	if alpha == 0 {
		alpha = DefaultAlpha
	}
	return predictNaive(ctx, e, ws, func(w Window) pointFunc {
		level := smooth(w.Values, alpha)
		return func(i, _ int) float64 { return level[i] }
	})
}

// SeasonalNaive forecasts what was there a season ago, and the newest sample
// where the window does not hold that.
type SeasonalNaive struct {
	Season time.Duration // a day when zero
}

// Version implements Model.
func (SeasonalNaive) Version() string { return "seasonal-naive" }

// Shape implements Model.
func (SeasonalNaive) Shape() Shape { return naiveShape() }

// Predict implements Model.
func (s SeasonalNaive) Predict(ctx context.Context, ws []Window) ([]Forecast, error) {
	season := s.Season
	if season == 0 {
		season = 24 * time.Hour
	}
	return predictNaive(ctx, s, ws, func(w Window) pointFunc {
		last, back := fillForward(w.Values), int(season/w.Step)
		return func(i, h int) float64 {
			// A season shorter than the horizon must not look past the origin.
			if j := i + h - back; j >= 0 && j <= i && observed(w.Values[j]) {
				return w.Values[j]
			}
			return last[i]
		}
	})
}

// pointFunc returns the forecast made at position i of a window for i+h, using
// nothing after i; NaN when there is none.
type pointFunc func(i, h int) float64

func naiveShape() Shape {
	return Shape{MinSteps: 1, Steps: math.MaxInt32, Horizon: HorizonSteps, Levels: Levels()}
}

func predictNaive(ctx context.Context, m Model, ws []Window, points func(Window) pointFunc) ([]Forecast, error) {
	if err := m.Shape().CheckWindows(ws); err != nil {
		return nil, err
	}
	out := make([]Forecast, len(ws))
	for i, w := range ws {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		out[i] = naiveForecast(w, m.Version(), points(w))
	}
	return out, nil
}

func naiveForecast(w Window, version string, point pointFunc) Forecast {
	f := Forecast{Labels: w.Labels, Origin: w.Origin, Step: w.Step, Levels: Levels(), Observed: w.Newest(), Model: version}
	f.Quantiles = make([][]float64, len(f.Levels))
	for k := range f.Quantiles {
		f.Quantiles[k] = make([]float64, HorizonSteps)
	}
	origin := len(w.Values) - 1
	errs := make([]float64, 0, errorOrigins)
	for h := 1; h <= HorizonSteps; h++ {
		errs = errs[:0]
		for i := max(0, origin-h+1-errorOrigins); i+h <= origin; i++ {
			if e := w.Values[i+h] - point(i, h); observed(e) {
				errs = append(errs, e)
			}
		}
		slices.Sort(errs)
		at := point(origin, h)
		for k, level := range f.Levels {
			f.Quantiles[k][h-1] = at + spread(errs, level)
		}
	}
	return f
}

// spread is the empirical quantile of sorted errors as a distance from the
// median: never above zero below it, never below zero above it. The rank is
// that of n errors and the one to come, which holds the level in small samples.
func spread(sorted []float64, level float64) float64 {
	n := float64(len(sorted))
	if n == 0 {
		return 0
	}
	switch {
	case level > 0.5:
		rank := min(math.Ceil((n+1)*level), n)
		return max(0, sorted[int(rank)-1])
	case level < 0.5:
		rank := max(math.Floor((n+1)*level), 1)
		return min(0, sorted[int(rank)-1])
	}
	return 0
}

// fillForward returns vs with every missing sample replaced by the last one
// before it; those before the first stay missing.
func fillForward(vs []float64) []float64 {
	out, last := make([]float64, len(vs)), nan
	for i, v := range vs {
		if observed(v) {
			last = v
		}
		out[i] = last
	}
	return out
}

// smooth returns the exponentially weighted mean of vs up to each position.
func smooth(vs []float64, alpha float64) []float64 {
	out, level := make([]float64, len(vs)), nan
	for i, v := range vs {
		switch {
		case !observed(v):
		case !observed(level):
			level = v
		default:
			level += alpha * (v - level)
		}
		out[i] = level
	}
	return out
}
