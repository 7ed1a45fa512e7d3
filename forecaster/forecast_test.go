package forecaster

import (
	"math"
	"testing"
	"time"
)

var t0 = time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)

// hills is a forecast whose median peaks in the middle and whose 0.9 quantile
// lies 10 above it.
func hills() Forecast {
	return Forecast{
		Origin: t0, Step: time.Minute, Levels: []float64{0.5, 0.9}, Observed: 1,
		Quantiles: [][]float64{{2, 5, 9, 4}, {12, 15, 19, 14}},
	}
}

func TestPeak(t *testing.T) {
	const s = time.Second
	for _, tt := range []struct {
		name     string
		level    float64
		from, to time.Duration
		want     float64
		ok       bool
	}{
		{"looks only within the interval", 0.9, 0, 120 * s, 15, true},
		{"takes a step whose end lies past the interval", 0.9, 0, 121 * s, 19, true},
		{"takes the step that a late start lies in", 0.5, 150 * s, 240 * s, 9, true},
		{"leaves out the steps before", 0.5, 180 * s, 240 * s, 4, true},
		{"lies between two levels in proportion", 0.7, 0, 60 * s, 7, true},
		{"is unknown past the end", 0.5, 0, 241 * s, 0, false},
		{"is unknown before the origin", 0.5, -s, 60 * s, 0, false},
		{"is unknown above the highest level", 0.95, 0, 60 * s, 0, false},
		{"is unknown below the lowest level", 0.4, 0, 60 * s, 0, false},
		{"is unknown in an empty interval", 0.5, 60 * s, 60 * s, 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := hills().Peak(tt.level, t0.Add(tt.from), t0.Add(tt.to))
			if ok != tt.ok || math.Abs(got-tt.want) > 1e-12 {
				t.Errorf("peak = %v, %v; want %v, %v", got, ok, tt.want, tt.ok)
			}
		})
	}
}

func TestInvalidForecasts(t *testing.T) {
	for name, spoil := range map[string]func(*Forecast){
		"not a number":          func(f *Forecast) { f.Quantiles[0][1] = math.NaN() },
		"infinite":              func(f *Forecast) { f.Quantiles[1][3] = math.Inf(1) },
		"quantiles crossed":     func(f *Forecast) { f.Quantiles[0][0] = 13 },
		"a quantile is missing": func(f *Forecast) { f.Quantiles = f.Quantiles[:1] },
		"a step is missing":     func(f *Forecast) { f.Quantiles[1] = f.Quantiles[1][:3] },
		"no steps":              func(f *Forecast) { f.Quantiles = [][]float64{{}, {}} },
		"no levels":             func(f *Forecast) { f.Levels, f.Quantiles = nil, nil },
		"no observed value":     func(f *Forecast) { f.Observed = math.NaN() },
	} {
		f := hills()
		spoil(&f)
		if f.valid() {
			t.Errorf("%s: the forecast is taken for valid", name)
		}
	}
	if f := hills(); !f.valid() {
		t.Error("a good forecast is taken for invalid")
	}
	if f := (Forecast{Origin: t0}); !f.End().Equal(t0) {
		t.Errorf("a forecast of nothing ends at %v; want its origin", f.End())
	}
}

func TestValueIsFreshOrSilent(t *testing.T) {
	rule := Rule{Metric: "m", Horizon: 4 * time.Minute, Lead: 2 * time.Minute, Level: 0.9, MaxAge: 2 * time.Minute, Floor: FloorObserved}
	for _, tt := range []struct {
		name  string
		spoil func(*Rule, *Forecast)
		view  View
		now   time.Duration
		want  float64
		ok    bool
	}{
		{"default view is the rule's lead and level", nil, rule.DefaultView(), 0, 15, true},
		{"horizon counts from now", nil, rule.DefaultView(), time.Minute, 19, true},
		{"horizon is cut at the end of the forecast", nil, View{4 * time.Minute, 0.5}, 2 * time.Minute, 9, true},
		{"as old as max age is fresh", nil, rule.DefaultView(), 2 * time.Minute, 19, true},
		{"older than max age is silent", nil, rule.DefaultView(), 2*time.Minute + 1, 0, false},
		{"a clock behind Prometheus' serves from the origin", nil, rule.DefaultView(), -time.Minute, 12, true},
		{"never below the observed value", func(_ *Rule, f *Forecast) { f.Observed = 100 }, rule.DefaultView(), 0, 100, true},
		{"floor none serves the forecast alone", func(r *Rule, f *Forecast) { f.Observed, r.Floor = 100, FloorNone }, rule.DefaultView(), 0, 15, true},
		{"never below zero", func(_ *Rule, f *Forecast) { f.Observed, f.Quantiles[1] = -7, []float64{-3, -3, -3, -3} }, rule.DefaultView(), 0, 0, true},
		{"an unknown level is silent", nil, View{time.Minute, 0.99}, 0, 0, false},
		{"over is silent whatever max age says", func(r *Rule, _ *Forecast) { r.MaxAge = time.Hour }, rule.DefaultView(), 4 * time.Minute, 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, f := rule, hills()
			if tt.spoil != nil {
				tt.spoil(&r, &f)
			}
			if got, ok := r.Value(f, tt.view, t0.Add(tt.now)); got != tt.want || ok != tt.ok {
				t.Errorf("Value = %v, %v; want %v, %v", got, ok, tt.want, tt.ok)
			}
		})
	}
}
