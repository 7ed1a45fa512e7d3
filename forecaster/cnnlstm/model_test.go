package cnnlstm

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/model"

	"github.com/kubeforecaster/kubeforecaster/forecaster"
	"github.com/kubeforecaster/kubeforecaster/forecaster/modeltest"
	"github.com/kubeforecaster/kubeforecaster/weights"
)

// untrained is a model with random weights. Nothing that it must promise is
// learnt.
func untrained(t testing.TB) *Model {
	t.Helper()
	m, err := New(fileOf(initial(rand.New(rand.NewPCG(1, 0)))))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// noisy is a series of n samples at 5 minutes with a daily rhythm and a
// companion; about one sample in gaps is missing where gaps is positive.
func noisy(n, gaps int, seed uint64) (s, with forecaster.Series) {
	rng := rand.New(rand.NewPCG(seed, 9))
	s = forecaster.Series{Labels: model.Metric{"workload": model.LabelValue(fmt.Sprint(seed))}, Start: t0, Step: 5 * time.Minute}
	with = forecaster.Series{Start: t0, Step: 5 * time.Minute}
	for i := range n {
		v := 5 + 2*math.Sin(2*math.Pi*float64(i)/288) + 0.4*rng.NormFloat64()
		if gaps > 0 && rng.IntN(gaps) == 0 && i < n-1 {
			v = nan
		}
		s.Values = append(s.Values, v)
		with.Values = append(with.Values, 1e9+1e7*rng.NormFloat64())
	}
	return s, with
}

func windowAt(t testing.TB, s, with forecaster.Series, at time.Time) forecaster.Window {
	t.Helper()
	w, err := forecaster.NewWindow(s, with, at)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// windows are n windows of every kind: short, long, with gaps and companions.
func windows(t testing.TB, n int) []forecaster.Window {
	t.Helper()
	var ws []forecaster.Window
	for i := range n {
		s, with := noisy(3+(i*37)%400, i%4*3, uint64(i))
		if i%3 == 0 {
			with = forecaster.Series{}
		}
		w := windowAt(t, s, with, s.Time(len(s.Values)))
		if w.Observed < minSteps {
			w = windows(t, 1)[0]
		}
		ws = append(ws, w)
	}
	return ws
}

func TestModelConforms(t *testing.T) { modeltest.Run(t, untrained(t)) }

func TestBaseWeightsConform(t *testing.T) {
	m, err := Load(weights.Base())
	if err != nil {
		t.Fatal(err)
	}
	modeltest.Run(t, m)
}

func TestForecastDoesNotDependOnItsNeighbours(t *testing.T) {
	m := untrained(t)
	ws := windows(t, 100)
	together, err := m.Predict(t.Context(), ws)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{1, 2, 5, 9, 40} {
		part, err := m.Predict(t.Context(), ws[50:50+n])
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(together[50:50+n], part); diff != "" {
			t.Fatalf("forecasts of %d windows differ from those among 100 (-among +alone):\n%s", n, diff)
		}
	}
}

func TestNothingAfterTheOriginChangesABit(t *testing.T) {
	m := untrained(t)
	s, with := noisy(2500, 20, 1)
	at := s.Time(2200)
	want, err := m.Predict(t.Context(), []forecaster.Window{windowAt(t, s, with, at)})
	if err != nil {
		t.Fatal(err)
	}
	for i := 2201; i < 2500; i++ {
		s.Values[i], with.Values[i] = 1e6*float64(i%7), -1
	}
	got, err := m.Predict(t.Context(), []forecaster.Window{windowAt(t, s, with, at)})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the future changed the forecast (-before +after):\n%s", diff)
	}
}

func TestQuantilesNeverCross(t *testing.T) {
	data := initial(rand.New(rand.NewPCG(2, 0)))
	for _, d := range data {
		for i := range d {
			d[i] *= 30 // Far beyond what training gives.
		}
	}
	m, err := New(fileOf(data))
	if err != nil {
		t.Fatal(err)
	}
	fs, err := m.Predict(t.Context(), windows(t, 64))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range fs {
		for k := 1; k < len(f.Quantiles); k++ {
			for j, v := range f.Quantiles[k] {
				if !(v >= f.Quantiles[k-1][j]) {
					t.Fatalf("quantile %v at step %d is %v, below %v", f.Levels[k], j, v, f.Quantiles[k-1][j])
				}
			}
		}
	}
}

func TestWeightsTooLargeAreAnError(t *testing.T) {
	data := initial(rand.New(rand.NewPCG(2, 0)))
	for i := range data[9] {
		data[9][i] = math.MaxFloat32 * float32(1-2*(i%2))
	}
	m, err := New(fileOf(data))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Predict(t.Context(), windows(t, 8)); !errors.Is(err, errNotFinite) {
		t.Errorf("error is %v; want errNotFinite", err)
	}
}

func TestPredictRefusesWhatItCannotRead(t *testing.T) {
	m := untrained(t)
	good := windows(t, 1)[0]
	for name, change := range map[string]func(*forecaster.Window){
		"no step":                               func(w *forecaster.Window) { w.Step = 0 },
		"a companion of another length":         func(w *forecaster.Window) { w.With = w.Values[1:] },
		"a window without enough samples":       func(w *forecaster.Window) { w.Observed = 2 },
		"a window that is shorter than it says": func(w *forecaster.Window) { w.Values, w.With = nil, nil },
		"a newest sample that is missing":       func(w *forecaster.Window) { w.Values = append(w.Values[:len(w.Values)-1:len(w.Values)-1], nan) },
	} {
		w := good
		change(&w)
		if _, err := m.Predict(t.Context(), []forecaster.Window{good, w}); err == nil {
			t.Errorf("%s is no error", name)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.Predict(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("error of a cancelled call without windows is %v", err)
	}
}

func TestConcurrentCallsAgree(t *testing.T) {
	m := untrained(t)
	ws := windows(t, 80)
	want, err := m.Predict(t.Context(), ws)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			lo, hi := i*5, 80-i*9
			got, err := m.Predict(context.Background(), ws[lo:hi])
			if err != nil {
				t.Error(err)
				return
			}
			if diff := cmp.Diff(want[lo:hi], got); diff != "" {
				t.Errorf("concurrent forecasts differ (-want +got):\n%s", diff)
			}
		})
	}
	wg.Wait()
}

func TestBatchesAreFewAndFull(t *testing.T) {
	for n, want := range map[int]int{1: 1, 4: 1, 5: 8, 8: 8, 32: 8, 33: 64, 64: 64, 1000: 64} {
		if got := batchFor(n); got != want {
			t.Errorf("%d windows go to a graph for %d; want %d", n, got, want)
		}
	}
}

func TestLoadNamesWhatDoesNotFit(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*weights.File)
		want   string
	}{
		"a missing tensor":      {func(f *weights.File) { delete(f.Tensors, "lstm.bias") }, `tensor "lstm.bias" is missing`},
		"a tensor of no use":    {func(f *weights.File) { f.Tensors["x"] = weights.Tensor{Shape: []int{0}} }, "the file holds 12 tensors; want 11"},
		"a tensor of a shape":   {func(f *weights.File) { f.Tensors["head2.bias"] = weights.Tensor{Shape: []int{1}, Data: []float32{0}} }, `tensor "head2.bias" has shape [1]; want [60]`},
		"another preset":        {func(f *weights.File) { f.Metadata[presetKey] = "published" }, `metadata preset is "published"; want "cnnlstm-1"`},
		"other levels":          {func(f *weights.File) { f.Metadata[levelsKey] = "0.5" }, `metadata levels is "0.5"; want "0.1,0.5,0.9,0.95,0.99"`},
		"no metadata":           {func(f *weights.File) { clear(f.Metadata) }, `metadata preset is ""`},
		"a weight that changed": {func(f *weights.File) { f.Tensors["conv1.bias"].Data[3] = 2 }, "the file is damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			f := untrained(t).File(nil)
			tc.change(f)
			data, err := f.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Load(data); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error is %v; want one that says %q", err, tc.want)
			}
		})
	}
	if _, err := Load([]byte("no weights")); err == nil || !strings.Contains(err.Error(), "load weights: ") {
		t.Errorf("error of a file that is no weights is %v", err)
	}
}

func TestFileRoundTripKeepsTheForecast(t *testing.T) {
	m := untrained(t)
	data, err := m.File(map[string]string{"seed": "1"}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Load(data)
	if err != nil {
		t.Fatal(err)
	}
	if m.Version() != again.Version() || !strings.HasPrefix(m.Version(), "cnnlstm-") || len(m.Version()) != len("cnnlstm-")+12 {
		t.Errorf("versions are %q and %q", m.Version(), again.Version())
	}
	ws := windows(t, 3)
	want, err := m.Predict(t.Context(), ws)
	if err != nil {
		t.Fatal(err)
	}
	got, err := again.Predict(t.Context(), ws)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("forecasts differ (-saved +loaded):\n%s", diff)
	}
	m.File(nil).Tensors["conv1.bias"].Data[0] = 7
	if m.data[1][0] == 7 {
		t.Error("a caller can change the weights through the file")
	}
}

func TestOperatorsTurnFaultsIntoErrors(t *testing.T) {
	g, err := newGraph(1, initial(rand.New(rand.NewPCG(1, 0))), true)
	if err != nil {
		t.Fatal(err)
	}
	o := &operator{layer: &quantiles{batch: 1, horizon: 1, levels: 5, median: 1}, out: zeros([]int{1, 5})}
	if _, err := o.Do(g.params[1].Value(), g.params[1].Value()); err != nil {
		t.Errorf("an input too many: %v", err)
	}
	if _, err := o.Do(); err == nil || !strings.Contains(err.Error(), "quantiles: ") {
		t.Errorf("error without inputs is %v; want one that names the layer", err)
	}
	if _, err := apply(&quantiles{batch: 9, horizon: 1, levels: 5, median: 1}, true, g.params[1]); err == nil {
		t.Error("an input of another shape is no error")
	}
	if _, err := newGraph(1, nil, false); err == nil || !strings.Contains(err.Error(), "build graph: ") {
		t.Errorf("error without weights is %v", err)
	}
}

func benchmarkPredict(b *testing.B, n int) {
	m := untrained(b)
	s, with := noisy(2100, 0, 1)
	var ws []forecaster.Window
	for i := range n {
		ws = append(ws, windowAt(b, s, with, s.Time(2099-i%50)))
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.Predict(context.Background(), ws); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "windows/s")
}

func BenchmarkPredict(b *testing.B) {
	for _, n := range []int{1, 64, 1024} {
		b.Run(fmt.Sprintf("windows=%d", n), func(b *testing.B) { benchmarkPredict(b, n) })
	}
}
