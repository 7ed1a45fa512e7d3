package forecaster_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kubeforecaster/kubeforecaster/forecaster"
	"github.com/kubeforecaster/kubeforecaster/forecaster/modeltest"
)

func TestBaselinesAreModels(t *testing.T) {
	for _, m := range []forecaster.Model{
		forecaster.Persistence{}, forecaster.ExponentialSmoothing{}, forecaster.SeasonalNaive{}, forecaster.SeasonalNaive{Season: 5 * time.Minute},
	} {
		t.Run(m.Version(), func(t *testing.T) { modeltest.Run(t, m) })
	}
}

func TestBaselinePointForecasts(t *testing.T) {
	for _, tt := range []struct {
		name  string
		model forecaster.Model
		in    string
		want  []float64 // median at the first four steps
	}{
		{"persistence repeats the newest sample", forecaster.Persistence{}, "1 2 7", []float64{7, 7, 7, 7}},
		{"smoothing starts at the first sample", forecaster.ExponentialSmoothing{Alpha: 0.5}, "_ 4 8 8", []float64{7, 7, 7, 7}},
		{"smoothing skips what is missing", forecaster.ExponentialSmoothing{Alpha: 0.5}, "4 _x3 8", []float64{6, 6, 6, 6}},
		{"seasonal repeats the last season", forecaster.SeasonalNaive{Season: 3 * time.Minute}, "9 1 2 3", []float64{1, 2, 3, 3}},
		{"seasonal falls back to the newest sample", forecaster.SeasonalNaive{Season: time.Hour}, "1 2 3", []float64{3, 3, 3, 3}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := predictOne(t, tt.model, tt.in)
			if diff := cmp.Diff(tt.want, f.Quantiles[1][:4]); diff != "" {
				t.Errorf("median (-want +got):\n%s", diff)
			}
		})
	}
}

func TestBaselineQuantilesComeFromOwnErrors(t *testing.T) {
	// One step ahead persistence errs by +1 nine times and by -9 once; two
	// steps ahead by +2 eight times and by -8 once.
	f := predictOne(t, forecaster.Persistence{}, "0+1x9 0")
	type row struct{ P10, P50, P90 float64 }
	at := func(j int) row { return row{f.Quantiles[0][j], f.Quantiles[1][j], f.Quantiles[2][j]} }
	if got, want := at(0), (row{-9, 0, 1}); got != want {
		t.Errorf("one step ahead %v; want %v", got, want)
	}
	if got, want := at(1), (row{-8, 0, 2}); got != want {
		t.Errorf("two steps ahead %v; want %v", got, want)
	}
}

func predictOne(t *testing.T, m forecaster.Model, notation string) forecaster.Forecast {
	t.Helper()
	s := series(t, notation)
	w, err := forecaster.NewWindow(s, forecaster.Series{}, s.Time(len(s.Values)-1))
	if err != nil {
		t.Fatal(err)
	}
	fs, err := m.Predict(t.Context(), []forecaster.Window{w})
	if err != nil {
		t.Fatal(err)
	}
	return fs[0]
}
