package forecaster_test

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/kubeforecaster/kubeforecaster/forecaster"
)

func TestWindowEndsWithTheNewestSample(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		at       time.Duration
		origin   time.Duration
		values   string
		observed int
	}{
		{"at the end", "1 2 3", 2 * time.Minute, 2 * time.Minute, "1 2 3", 3},
		{"between two grid points it takes the earlier", "1 2 3", 119 * time.Second, time.Minute, "1 2", 2},
		{"later samples are cut off", "1 2 3 4", time.Minute, time.Minute, "1 2", 2},
		{"missing samples at the end move the origin back", "1 2 _x2", 3 * time.Minute, time.Minute, "1 2", 2},
		{"missing samples inside stay missing", "1 _ 3", 2 * time.Minute, 2 * time.Minute, "1 _ 3", 2},
		{"an infinity is missing", "Inf 2 3 -Inf", 3 * time.Minute, 2 * time.Minute, "_ 2 3", 2},
		{"a time after the series is its end", "1 2", time.Hour, time.Minute, "1 2", 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, err := forecaster.NewWindow(series(t, tt.in), forecaster.Series{}, t0.Add(tt.at))
			if err != nil {
				t.Fatal(err)
			}
			if !w.Origin.Equal(t0.Add(tt.origin)) || w.Observed != tt.observed {
				t.Errorf("origin %v with %d samples; want %v with %d", w.Origin, w.Observed, t0.Add(tt.origin), tt.observed)
			}
			if diff := cmp.Diff(values(t, tt.values), w.Values, cmpopts.EquateNaNs()); diff != "" {
				t.Errorf("values (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWindowOfNothingIsNoData(t *testing.T) {
	for name, at := range map[string]time.Duration{"before the first sample": time.Minute, "before the series": -time.Hour} {
		if _, err := forecaster.NewWindow(series(t, "_ _ 3"), forecaster.Series{}, t0.Add(at)); !errors.Is(err, forecaster.ErrNoData) {
			t.Errorf("%s: error %v; want ErrNoData", name, err)
		}
	}
}

func TestCompanionIsLaidOnTheGridOfTheWindow(t *testing.T) {
	with := series(t, "10 20 Inf 40 50")
	with.Start = t0.Add(time.Minute)
	w, err := forecaster.NewWindow(series(t, "1 2 3 4 5"), with, t0.Add(4*time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(values(t, "_ 10 20 _ 40"), w.With, cmpopts.EquateNaNs()); diff != "" {
		t.Errorf("companion (-want +got):\n%s", diff)
	}
	with.Step = time.Hour
	if w, _ = forecaster.NewWindow(series(t, "1 2"), with, t0.Add(time.Minute)); w.With != nil {
		t.Errorf("a companion on another step was taken: %v", w.With)
	}
}

func TestPastNeverLooksAhead(t *testing.T) {
	w, err := forecaster.NewWindow(series(t, "1 2 3 4"), forecaster.Series{}, t0.Add(2*time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	got := []float64{w.Past(-3), w.Past(-2), w.Past(0), w.Past(1)}
	if diff := cmp.Diff([]float64{math.NaN(), 1, 3, math.NaN()}, got, cmpopts.EquateNaNs()); diff != "" {
		t.Errorf("Past at -3, -2, 0, 1 (-want +got):\n%s", diff)
	}
}
