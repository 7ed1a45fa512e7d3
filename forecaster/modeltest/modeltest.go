// Package modeltest checks that a forecaster.Model keeps the promises of the
// interface. Every model of the project, baseline or network, passes it.
package modeltest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/model"

	"github.com/kubeforecaster/kubeforecaster/forecaster"
)

var start = time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)

// Run checks m. It takes a few hundred forecasts.
func Run(t *testing.T, m forecaster.Model) {
	t.Helper()
	t.Run("forecasts have the model's shape, in order", func(t *testing.T) { shape(t, m) })
	t.Run("quantiles are finite and ordered on awkward series", func(t *testing.T) { awkward(t, m) })
	t.Run("equal windows give equal forecasts, whatever their neighbours", func(t *testing.T) { deterministic(t, m) })
	t.Run("forecasts follow the unit of the series", func(t *testing.T) { units(t, m) })
	t.Run("nothing after the origin changes a forecast", func(t *testing.T) { causal(t, m) })
	t.Run("concurrent use gives the same forecasts", func(t *testing.T) { concurrent(t, m) })
	t.Run("bad input is an error", func(t *testing.T) { badInput(t, m) })
}

// Noisy returns n samples of a noisy daily curve at a one-minute step; seed
// chooses the noise.
func Noisy(n int, seed uint64) forecaster.Series {
	rng := rand.New(rand.NewPCG(seed, 0))
	s := forecaster.Series{
		Labels: model.Metric{"workload": model.LabelValue(fmt.Sprintf("w%d", seed))},
		Start:  start, Step: time.Minute, Values: make([]float64, n),
	}
	for i := range s.Values {
		s.Values[i] = 5 + 2*math.Sin(2*math.Pi*float64(i)/1440) + 0.3*rng.NormFloat64()
	}
	return s
}

func window(t *testing.T, s forecaster.Series) forecaster.Window {
	t.Helper()
	w, err := forecaster.NewWindow(s, forecaster.Series{}, s.Time(len(s.Values)-1))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func predict(t *testing.T, m forecaster.Model, ws ...forecaster.Window) []forecaster.Forecast {
	t.Helper()
	fs, err := m.Predict(t.Context(), ws)
	if err != nil {
		t.Fatal(err)
	}
	if len(fs) != len(ws) {
		t.Fatalf("%d forecasts for %d windows", len(fs), len(ws))
	}
	return fs
}

func shape(t *testing.T, m forecaster.Model) {
	t.Helper()
	sh := m.Shape()
	if sh.Horizon != forecaster.HorizonSteps || !cmp.Equal(sh.Levels, forecaster.Levels()) {
		t.Errorf("shape is %+v; want %d steps at the levels %v", sh, forecaster.HorizonSteps, forecaster.Levels())
	}
	var ws []forecaster.Window
	for i := range uint64(5) {
		ws = append(ws, window(t, Noisy(200, i)))
	}
	for i, f := range predict(t, m, ws...) {
		w := ws[i]
		if !f.Labels.Equal(w.Labels) || !f.Origin.Equal(w.Origin) || f.Step != w.Step || f.Observed != w.Newest() || f.Model != m.Version() {
			t.Errorf("forecast %d is of %v at %v by %q; want %v at %v by %q", i, f.Labels, f.Origin, f.Model, w.Labels, w.Origin, m.Version())
		}
		if len(f.Quantiles) != len(sh.Levels) || len(f.Quantiles[0]) != sh.Horizon {
			t.Errorf("forecast %d is %d x %d; want %d x %d", i, len(f.Quantiles), len(f.Quantiles[0]), len(sh.Levels), sh.Horizon)
		}
	}
	if fs := predict(t, m); len(fs) != 0 {
		t.Errorf("no windows gave %d forecasts", len(fs))
	}
}

// awkwardSeries are what clusters really send.
func awkwardSeries() map[string]func(i int) float64 {
	return map[string]func(i int) float64{
		"zero":          func(int) float64 { return 0 },
		"flat":          func(int) float64 { return 3 },
		"huge":          func(i int) float64 { return 1e15 * float64(1+i%7) },
		"tiny":          func(i int) float64 { return 1e-12 * float64(1+i%3) },
		"step":          func(i int) float64 { return 1 + 1000*float64(i/150) },
		"one spike":     func(i int) float64 { return map[bool]float64{true: 1e9, false: 1}[i == 190] },
		"negative":      func(i int) float64 { return -float64(i) },
		"mostly absent": func(i int) float64 { return map[bool]float64{true: 2, false: math.NaN()}[i%17 == 12] },
	}
}

func awkward(t *testing.T, m forecaster.Model) {
	t.Helper()
	for name, value := range awkwardSeries() {
		s := Noisy(200, 1)
		for i := range s.Values {
			s.Values[i] = value(i)
		}
		w := window(t, s)
		if w.Observed < m.Shape().MinSteps {
			continue
		}
		ordered(t, name, predict(t, m, w)[0].Quantiles)
	}
}

func ordered(t *testing.T, name string, q [][]float64) {
	t.Helper()
	for k := range q {
		for j, v := range q[k] {
			if math.IsNaN(v) || math.IsInf(v, 0) || k > 0 && v < q[k-1][j] {
				t.Fatalf("%s: quantiles at step %d are %v; want finite and rising", name, j, q)
			}
		}
	}
}

func deterministic(t *testing.T, m forecaster.Model) {
	t.Helper()
	w := window(t, Noisy(200, 1))
	alone := predict(t, m, w)[0]
	among := predict(t, m, window(t, Noisy(100, 2)), w, window(t, Noisy(30, 3)))[1]
	if diff := cmp.Diff(alone, among); diff != "" {
		t.Errorf("forecast depends on its neighbours (-alone +among):\n%s", diff)
	}
}

func units(t *testing.T, m forecaster.Model) {
	t.Helper()
	const factor = 1024 // a power of two loses no digits
	s := Noisy(200, 1)
	base := predict(t, m, window(t, s))[0]
	for i := range s.Values {
		s.Values[i] *= factor
	}
	scaled := predict(t, m, window(t, s))[0]
	for k, q := range base.Quantiles {
		for j, v := range q {
			if got, want := scaled.Quantiles[k][j], v*factor; math.Abs(got-want) > 1e-4*math.Abs(want) {
				t.Fatalf("quantile %v at step %d is %v for a series times %d; want %v", base.Levels[k], j, got, factor, want)
			}
		}
	}
}

func causal(t *testing.T, m forecaster.Model) {
	t.Helper()
	s, with := Noisy(260, 1), Noisy(260, 2)
	at := s.Time(199)
	before := predict(t, m, cut(t, s, with, at))[0]
	for i := 200; i < 260; i++ {
		s.Values[i], with.Values[i] = -1e6*float64(i), math.NaN()
	}
	if diff := cmp.Diff(before, predict(t, m, cut(t, s, with, at))[0]); diff != "" {
		t.Errorf("the future changed the forecast (-before +after):\n%s", diff)
	}
}

func cut(t *testing.T, s, with forecaster.Series, at time.Time) forecaster.Window {
	t.Helper()
	w, err := forecaster.NewWindow(s, with, at)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func concurrent(t *testing.T, m forecaster.Model) {
	t.Helper()
	w := window(t, Noisy(200, 1))
	want := predict(t, m, w)[0]
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			fs, err := m.Predict(context.Background(), []forecaster.Window{w, w})
			if err != nil {
				t.Error(err)
				return
			}
			if diff := cmp.Diff(want, fs[1]); diff != "" {
				t.Errorf("concurrent forecast differs (-want +got):\n%s", diff)
			}
		})
	}
	wg.Wait()
}

func badInput(t *testing.T, m forecaster.Model) {
	t.Helper()
	short := forecaster.Window{Labels: model.Metric{"workload": "short"}, Step: time.Minute}
	if _, err := m.Predict(t.Context(), []forecaster.Window{window(t, Noisy(200, 1)), short}); !errors.Is(err, forecaster.ErrShortHistory) {
		t.Errorf("an empty window gave the error %v; want ErrShortHistory", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.Predict(ctx, []forecaster.Window{window(t, Noisy(200, 1))}); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled call gave the error %v; want context.Canceled", err)
	}
}
