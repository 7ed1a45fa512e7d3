package cnnlstm

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/model"

	"github.com/kubeforecaster/kubeforecaster/forecaster"
)

// curves is a dataset of noisy daily curves with gaps: series of n samples at 15
// minutes.
func curves(series, n int) forecaster.Dataset {
	var ds forecaster.Dataset
	for k := range series {
		rng := rand.New(rand.NewPCG(uint64(k), 1))
		h := forecaster.History{Source: fmt.Sprint("source", k%2)}
		h.Series = forecaster.Series{Labels: model.Metric{"series": model.LabelValue(fmt.Sprint(k))}, Start: time.Unix(0, 0).UTC(), Step: 15 * time.Minute}
		phase, level := rng.Float64()*6, 1+9*rng.Float64()
		for i := range n {
			v := level * (1 + 0.5*math.Sin(2*math.Pi*float64(i)/96+phase) + 0.12*rng.NormFloat64())
			if rng.IntN(50) == 0 {
				v = nan
			}
			h.Series.Values = append(h.Series.Values, v)
		}
		h.With = h.Series
		ds.Histories = append(ds.Histories, h)
	}
	return ds
}

// brief are options for a fit of a second.
func brief() Options {
	o := DefaultOptions
	o.Epochs, o.WindowsPerSource, o.ValidPerSource, o.Batch = 3, 40, 20, 32
	return o
}

func fitted(t *testing.T, o Options, base *Model, ds forecaster.Dataset) (*Model, Report) {
	t.Helper()
	tr, err := NewTrainer(o)
	if err != nil {
		t.Fatal(err)
	}
	m, r, err := tr.Fit(t.Context(), base, ds)
	if err != nil {
		t.Fatal(err)
	}
	return m, r
}

func TestEqualSeedsGiveEqualWeights(t *testing.T) {
	ds := curves(2, 300)
	a, ra := fitted(t, brief(), nil, ds)
	b, rb := fitted(t, brief(), nil, ds)
	for i := range ra.Epochs {
		ra.Epochs[i].Seconds, rb.Epochs[i].Seconds = 0, 0
	}
	if diff := cmp.Diff(ra, rb); diff != "" || a.Version() != b.Version() {
		t.Errorf("versions are %s and %s, reports differ (-first +second):\n%s", a.Version(), b.Version(), diff)
	}
	o := brief()
	o.Seed = 2
	if c, _ := fitted(t, o, nil, ds); c.Version() == a.Version() {
		t.Error("another seed gave the same weights")
	}
}

func TestFitResumesWhereItStopped(t *testing.T) {
	ds := curves(2, 300)
	want, _ := fitted(t, brief(), nil, ds)

	o := brief()
	o.Checkpoint, o.Resume = filepath.Join(t.TempDir(), "checkpoint"), true
	ctx, cancel := context.WithCancel(t.Context())
	o.Progress = func(p Progress) {
		if p.Epoch == 3 {
			cancel()
		}
	}
	tr, err := NewTrainer(o)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := tr.Fit(ctx, nil, ds); !errors.Is(err, context.Canceled) {
		t.Fatalf("error of a cancelled fit is %v", err)
	}
	var resumed []int
	o.Progress = nil
	o.Epoch = func(e Epoch) { resumed = append(resumed, e.Epoch) }
	got, report := fitted(t, o, nil, ds)
	if got.Version() != want.Version() {
		t.Errorf("the resumed fit gave %s; want %s, as in one go", got.Version(), want.Version())
	}
	if !cmp.Equal(resumed, []int{3}) || len(report.Epochs) != 3 {
		t.Errorf("resumed with epochs %v of %d; want the third of 3", resumed, len(report.Epochs))
	}

	o.Seed = 5
	tr, err = NewTrainer(o)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := tr.Fit(t.Context(), nil, ds); err == nil || !strings.Contains(err.Error(), "the checkpoint is of another fit") {
		t.Errorf("error with another seed is %v", err)
	}
	if err := os.WriteFile(o.Checkpoint, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := tr.Fit(t.Context(), nil, ds); err == nil || !strings.Contains(err.Error(), o.Checkpoint) {
		t.Errorf("error of a broken checkpoint is %v; want one that names it", err)
	}
}

func TestFitLeavesItsBaseUntouched(t *testing.T) {
	base := untrained(t)
	was := base.Version()
	o := brief()
	o.Epochs = 1
	m, _ := fitted(t, o, base, curves(1, 300))
	if m.Version() == was || versionOf(base.data) != was {
		t.Errorf("the base was %s and is %s, the fit gave %s", was, versionOf(base.data), m.Version())
	}
}

func TestTrainerTakesOnlyItsOwnNetwork(t *testing.T) {
	tr, err := NewTrainer(brief())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tr.Train(t.Context(), forecaster.Persistence{}, curves(1, 300)); err == nil || !strings.Contains(err.Error(), "want weights of this network") {
		t.Errorf("error is %v", err)
	}
	m, err := tr.Train(t.Context(), nil, curves(1, 300))
	if err != nil || !strings.HasPrefix(m.Version(), "cnnlstm-") {
		t.Errorf("model is %v, %v", m, err)
	}
}

func TestFitSaysWhatItCannotDo(t *testing.T) {
	tr, err := NewTrainer(brief())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tr.Train(t.Context(), nil, forecaster.Dataset{}); !errors.Is(err, forecaster.ErrNoData) {
		t.Errorf("error of an empty dataset is %v; want ErrNoData", err)
	}
	if _, err := tr.Train(t.Context(), nil, curves(1, 30)); !errors.Is(err, forecaster.ErrNoData) || !strings.Contains(err.Error(), "0 to validate on") {
		t.Errorf("error of a short dataset is %v; want ErrNoData", err)
	}
	ds := curves(1, 300)
	ds.Split = forecaster.Split{Train: 2}
	if _, err := tr.Train(t.Context(), nil, ds); err == nil || !strings.Contains(err.Error(), "split") {
		t.Errorf("error of a split beyond the series is %v", err)
	}
	o := brief()
	o.Checkpoint = filepath.Join(t.TempDir(), "gone", "checkpoint")
	if tr, err = NewTrainer(o); err != nil {
		t.Fatal(err)
	}
	if _, err := tr.Train(t.Context(), nil, curves(1, 300)); err == nil || !strings.Contains(err.Error(), "checkpoint: ") {
		t.Errorf("error of a checkpoint that cannot be written is %v", err)
	}
	base := untrained(t)
	for i := range base.data[9] {
		base.data[9][i] = 1e38
	}
	if _, _, err := tr.Fit(t.Context(), base, curves(1, 300)); !errors.Is(err, errDiverged) {
		t.Errorf("error of weights beyond all bounds is %v; want errDiverged", err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for want, change := range map[string]func(*Options){
		"epochs: 0":                func(o *Options) { o.Epochs = 0 },
		"windows per source: -1":   func(o *Options) { o.WindowsPerSource = -1 },
		"validation windows":       func(o *Options) { o.ValidPerSource = 0 },
		"batch: 100000":            func(o *Options) { o.Batch = 100_000 },
		"learning rate: NaN":       func(o *Options) { o.LearnRate = nan },
		"weight decay: -1":         func(o *Options) { o.WeightDecay = -1 },
		"dropout: 1 is":            func(o *Options) { o.Dropout = 1 },
		"largest norm: 0":          func(o *Options) { o.MaxNorm = 0 },
		"patience: 0":              func(o *Options) { o.Patience = 0 },
		"there is no checkpoint":   func(o *Options) { o.Resume = true },
		"epochs: -1 is out\nbatch": nil,
	} {
		o := DefaultOptions
		if change == nil {
			o.Epochs, o.Batch, want = -1, 0, "want 1 to 10000\nbatch: 0"
		} else {
			change(&o)
		}
		if _, err := NewTrainer(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v; want one that says %q", err, want)
		}
	}
}

func TestFitStopsWhenNothingGetsBetter(t *testing.T) {
	o := brief()
	o.Epochs, o.Patience, o.LearnRate = 50, 2, 0.5
	_, r := fitted(t, o, nil, curves(1, 300))
	if len(r.Epochs) >= 50 || len(r.Epochs) != r.Best+2 {
		t.Errorf("stopped after %d epochs with the best %d; want two after the best", len(r.Epochs), r.Best)
	}
	if best := r.Epochs[r.Best-1]; !best.Best || best.Valid != r.Valid {
		t.Errorf("the best epoch is %+v; want the report's %+v", best, r.Valid)
	}
}

func TestExamplesStayInTheirPart(t *testing.T) {
	ds := curves(3, 400)
	rng := rand.New(rand.NewPCG(1, 0))
	train := drawTraining(ds, 300, rng)
	if len(train) < 400 {
		t.Fatalf("%d examples drawn; want about 300 from each of two sources", len(train))
	}
	bySource := map[string]int{}
	for _, e := range train {
		if e.origin+horizon >= 280 {
			t.Fatalf("training example %+v has targets in the validation part, which starts at 280", e)
		}
		w, ok := e.window(ds)
		if !ok || w.Observed < minSteps || e.alone == (w.With != nil) {
			t.Fatalf("example %+v gives %d samples, %v", e, w.Observed, ok)
		}
		bySource[ds.Histories[e.history].Source]++
	}
	if a, b := bySource["source0"], bySource["source1"]; a > b+30 || b > a+30 {
		t.Errorf("sources gave %v; want as many each", bySource)
	}
	for _, e := range spreadValidation(ds, 300) {
		if e.origin+1 < 280 || e.origin+horizon >= 340 {
			t.Fatalf("validation example %+v has targets outside 280 to 340", e)
		}
	}
}

func TestDropoutKeepsTheMean(t *testing.T) {
	keep := make([]float32, 100_000)
	drop(keep, 0.3, rand.New(rand.NewPCG(1, 0)))
	sum, zeros := 0.0, 0
	for _, v := range keep {
		sum += float64(v)
		if v == 0 {
			zeros++
		}
	}
	if math.Abs(sum/1e5-1) > 0.01 || zeros < 29_000 || zeros > 31_000 {
		t.Errorf("mean is %v with %d zeros; want 1 and 30000", sum/1e5, zeros)
	}
}

func TestRateGoesUpAndDown(t *testing.T) {
	for share, want := range map[float64]float64{0: 0.04, 0.15: 0.52, 0.3: 1, 0.65: 0.50005, 1: 1e-4} {
		if got := cycle(1, share); math.Abs(got-want) > 1e-9 {
			t.Errorf("rate at %v = %v; want %v", share, got, want)
		}
	}
}

func TestAdamTakesTheStepsOfItsPaper(t *testing.T) {
	data := initial(rand.New(rand.NewPCG(1, 0)))
	g, err := newGraph(2, data, true)
	if err != nil {
		t.Fatal(err)
	}
	randomized(g, 2)
	f := &fit{graph: g, solver: newAdam(0.1)}
	f.solver.rate = 0.01
	for i, n := range g.params {
		f.params = append(f.params, learnt{weight: n, grad: g.grads[i]})
	}
	if err := f.solver.Step(f.params); err == nil {
		t.Error("a step before the first run is no error")
	}
	f.solver.taken = 0
	mean, power := 0.0, 0.0
	weight := &data[9][7]
	for step := 1; step <= 3; step++ {
		if err := g.run(); err != nil {
			t.Fatal(err)
		}
		norm, err := clipNorm(f.params, 0.01)
		if err != nil || norm < 0.01 {
			t.Fatalf("norm = %v, %v; want more than the limit", norm, err)
		}
		d := float64(g.gradient(9)[7])
		mean, power = 0.9*mean+0.1*d, 0.999*power+0.001*d*d
		want := float64(*weight)*(1-0.01*0.1) - 0.01*mean/(1-math.Pow(0.9, float64(step)))/(math.Sqrt(power/(1-math.Pow(0.999, float64(step))))+1e-8)
		if err := f.solver.Step(f.params); err != nil {
			t.Fatal(err)
		}
		if math.Abs(float64(*weight)-want) > 1e-6 {
			t.Fatalf("weight after step %d = %v; want %v", step, *weight, want)
		}
	}
	if norm, err := clipNorm(f.params, 1e9); err != nil || math.Abs(norm-0.01) > 1e-6 {
		t.Errorf("norm after clipping = %v, %v; want 0.01", norm, err)
	}
}

// medianLoss is the mean pinball loss, of the median alone and of all levels, over
// the last 15 % of every series, which a fit never sees.
func medianLoss(t *testing.T, m forecaster.Model, ds forecaster.Dataset) (point, all float64) {
	t.Helper()
	n := 0.0
	for _, h := range ds.Histories {
		var ws []forecaster.Window
		var targets [][]float64
		for i := len(h.Series.Values) * 85 / 100; i < len(h.Series.Values)-horizon; i++ {
			if w, ok := h.Window(i, unlimited/2); ok {
				ws, targets = append(ws, w), append(targets, h.Targets(i))
			}
		}
		fs, err := m.Predict(t.Context(), ws)
		if err != nil {
			t.Fatal(err)
		}
		for i, f := range fs {
			for j, y := range targets[i] {
				if math.IsNaN(y) {
					continue
				}
				n++
				point += loss(0.5, f.Quantiles[median][j], y)
				for k, level := range f.Levels {
					all += loss(level, f.Quantiles[k][j], y) / float64(len(f.Levels))
				}
			}
		}
	}
	return point / n, all / n
}

func TestFitBeatsEveryBaselineOnNoisyDailyCurves(t *testing.T) {
	if testing.Short() {
		t.Skip("a fit that learns takes half a minute under the race detector")
	}
	ds := curves(4, 1500)
	o := DefaultOptions
	o.Epochs, o.WindowsPerSource, o.ValidPerSource, o.Batch = 4, 500, 50, 32
	m, _ := fitted(t, o, nil, ds)
	point, all := medianLoss(t, m, ds)
	for name, baseline := range map[string]forecaster.Model{
		"persistence": forecaster.Persistence{}, "exponential smoothing": forecaster.ExponentialSmoothing{Alpha: 0.3},
		"seasonal naive": forecaster.SeasonalNaive{Season: day},
	} {
		p, a := medianLoss(t, baseline, ds)
		t.Logf("%s: median %.4f against %.4f, all levels %.4f against %.4f", name, point, p, all, a)
		if point >= p || all >= a {
			t.Errorf("the network's loss is %.4f (median) and %.4f (all levels); %s has %.4f and %.4f", point, all, name, p, a)
		}
	}
}

func BenchmarkTrainStep(b *testing.B) {
	b.Run("batch=256", func(b *testing.B) {
		o := DefaultOptions
		f, err := (&Trainer{opts: o}).begin(nil, curves(4, 800))
		if err != nil {
			b.Fatal(err)
		}
		rng := rand.New(rand.NewPCG(1, 0))
		examples := drawTraining(f.ds, 1000, rng)[:o.Batch]
		f.solver.rate = 1e-3
		for b.Loop() {
			if _, err := f.step(examples, rng); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(o.Batch)*float64(b.N)/b.Elapsed().Seconds(), "windows/s")
	})
}
