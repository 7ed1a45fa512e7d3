package cnnlstm

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"gorgonia.org/gorgonia"

	"github.com/kubeforecaster/kubeforecaster/forecaster"
)

// Options say how to fit. Start from DefaultOptions.
type Options struct {
	Epochs           int     // passes; every pass draws windows anew
	WindowsPerSource int     // windows of a pass, about, from each source of the dataset
	ValidPerSource   int     // windows that a pass is judged on, about, from each source
	Batch            int     // windows of a gradient step
	LearnRate        float64 // its peak
	WeightDecay      float64
	Dropout          float64 // share of the LSTM's outputs that training leaves out; 0 to less than 1
	MaxNorm          float64 // gradients are scaled down to it
	Patience         int     // passes without a better validation loss after which to stop
	Seed             uint64  // equal seeds, data and options give equal weights

	// Checkpoint names a file that holds the state of the fit after every pass;
	// none is written when it is empty. Resume goes on from that file where it
	// exists.
	Checkpoint string
	Resume     bool

	// Progress is called after every gradient step, Epoch after every pass. Both
	// may be nil; neither may keep the fit waiting.
	Progress func(Progress) `json:"-"`
	Epoch    func(Epoch)    `json:"-"`
}

// DefaultOptions are what the base weights are fitted with.
var DefaultOptions = Options{
	Epochs: 12, WindowsPerSource: 20_000, ValidPerSource: 2_000, Batch: 256,
	LearnRate: 2e-3, WeightDecay: 1e-4, Dropout: 0.3, MaxNorm: 1, Patience: 5, Seed: 1,
}

// Validate returns every option that is out of range, joined.
func (o Options) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(o.Epochs > 0 && o.Epochs <= 10_000, "epochs: %d is out of range; want 1 to 10000", o.Epochs)
	check(o.WindowsPerSource > 0 && o.WindowsPerSource <= 10_000_000, "windows per source: %d is out of range; want 1 to 10000000", o.WindowsPerSource)
	check(o.ValidPerSource > 0 && o.ValidPerSource <= 1_000_000, "validation windows per source: %d is out of range; want 1 to 1000000", o.ValidPerSource)
	check(o.Batch > 0 && o.Batch <= 4096, "batch: %d is out of range; want 1 to 4096", o.Batch)
	check(o.LearnRate > 0 && o.LearnRate <= 1, "learning rate: %v is out of range; want more than 0 and at most 1", o.LearnRate)
	check(o.WeightDecay >= 0 && o.WeightDecay <= 1, "weight decay: %v is out of range; want 0 to 1", o.WeightDecay)
	check(o.Dropout >= 0 && o.Dropout <= 0.9, "dropout: %v is out of range; want 0 to 0.9", o.Dropout)
	check(o.MaxNorm > 0, "largest norm: %v is out of range; want more than 0", o.MaxNorm)
	check(o.Patience > 0, "patience: %d is out of range; want 1 or more", o.Patience)
	check(!o.Resume || o.Checkpoint != "", "resume: there is no checkpoint to resume from")
	return errors.Join(errs...)
}

// Progress is how far a pass has come.
type Progress struct {
	Epoch, Epochs int
	Step, Steps   int
	Loss          float64 // mean of the pass so far
}

// Epoch is the outcome of one pass.
type Epoch struct {
	Epoch   int     `json:"epoch"` // from 1
	Windows int     `json:"windows"`
	Loss    float64 `json:"train_pinball"` // with dropout and shortened histories
	Valid   Score   `json:"valid"`
	Best    bool    `json:"best"`
	Seconds float64 `json:"seconds"`
}

// Report is the outcome of a fit.
type Report struct {
	Epochs  []Epoch       `json:"epochs"`
	Best    int           `json:"best_epoch"`
	Valid   Score         `json:"valid"`
	Sources []SourceScore `json:"sources"`
}

// Trainer fits networks. It is a [forecaster.Trainer] and safe for concurrent
// use unless two fits share a checkpoint.
type Trainer struct {
	opts Options
}

var _ forecaster.Trainer = (*Trainer)(nil)

// NewTrainer returns a trainer, or an error that names every option that is out
// of range.
func NewTrainer(o Options) (*Trainer, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	return &Trainer{opts: o}, nil
}

// Train implements [forecaster.Trainer]. A base that is not nil must be a
// [Model] of this package.
func (t *Trainer) Train(ctx context.Context, base forecaster.Model, ds forecaster.Dataset) (forecaster.Model, error) {
	from, ok := base.(*Model)
	if base != nil && !ok {
		return nil, fmt.Errorf("fit: the base %s is a %T; want weights of this network", base.Version(), base)
	}
	m, _, err := t.Fit(ctx, from, ds)
	if err != nil {
		return nil, err
	}
	return m, nil
}

// Fit is Train with a report. The model has the weights of the best pass on the
// validation part. It fails with forecaster.ErrNoData when the dataset holds no
// window to train or to validate on. When ctx is done it returns its error; the
// checkpoint then holds the last whole pass.
func (t *Trainer) Fit(ctx context.Context, base *Model, ds forecaster.Dataset) (*Model, Report, error) {
	f, err := t.begin(base, ds)
	if err != nil {
		return nil, Report{}, fmt.Errorf("fit: %w", err)
	}
	for !f.done() {
		if err := f.epoch(ctx); err != nil {
			return nil, Report{}, fmt.Errorf("fit: epoch %d: %w", len(f.Epochs)+1, err)
		}
	}
	m, err := New(fileOf(f.best))
	if err != nil {
		return nil, Report{}, fmt.Errorf("fit: %w", err)
	}
	return m, f.Report, nil
}

// fit is the state of one fit.
type fit struct {
	Report
	opts   Options
	ds     forecaster.Dataset
	key    string // of what a checkpoint must agree with
	data   [][]float32
	best   [][]float32
	params []gorgonia.ValueGrad
	graph  *graph
	solver *adam
	scorer *scorer
}

func (t *Trainer) begin(base *Model, ds forecaster.Dataset) (*fit, error) {
	if ds.Split != (forecaster.Split{}) {
		if err := ds.Split.Validate(); err != nil {
			return nil, err
		}
	}
	f := &fit{opts: t.opts, ds: ds, key: keyOf(t.opts, base, ds), data: initial(t.rng(0, 1)), solver: newAdam(t.opts.WeightDecay)}
	if base != nil {
		f.data = cloneAll(base.data)
	}
	f.best = cloneAll(f.data)
	if err := f.resume(); err != nil {
		return nil, err
	}
	return f, f.build()
}

// rng is a stream of random numbers of its own for every pass and purpose, so
// that a resumed fit draws what an unbroken one would.
func (t *Trainer) rng(epoch, purpose uint64) *rand.Rand { return stream(t.opts.Seed, epoch, purpose) }

func stream(seed, epoch, purpose uint64) *rand.Rand {
	return rand.New(rand.NewPCG(seed, epoch<<8|purpose))
}

func cloneAll(data [][]float32) [][]float32 {
	out := make([][]float32, len(data))
	for i, d := range data {
		out[i] = slices.Clone(d)
	}
	return out
}

func (f *fit) build() error {
	train, valid := drawTraining(f.ds, f.opts.WindowsPerSource, stream(f.opts.Seed, 0, 2)), spreadValidation(f.ds, f.opts.ValidPerSource)
	if len(train) == 0 || len(valid) == 0 {
		return fmt.Errorf("the %d series hold %d windows to train and %d to validate on; want some of each, a series of a few hours gives both: %w",
			len(f.ds.Histories), len(train), len(valid), forecaster.ErrNoData)
	}
	var err error
	if f.graph, err = newGraph(f.opts.Batch, f.data, true); err != nil {
		return err
	}
	for i, n := range f.graph.params {
		f.params = append(f.params, learnt{weight: n, grad: f.graph.grads[i]})
	}
	f.scorer, err = newScorer(f.ds, valid, train, f.data)
	return err
}

// done reports whether all passes are made or the last ones brought nothing.
func (f *fit) done() bool {
	n := len(f.Epochs)
	return n >= f.opts.Epochs || n > 0 && n-f.Best >= f.opts.Patience
}

// epoch makes one pass, judges it and keeps the state.
func (f *fit) epoch(ctx context.Context) error {
	began := time.Now()
	e := Epoch{Epoch: len(f.Epochs) + 1}
	examples := drawTraining(f.ds, f.opts.WindowsPerSource, stream(f.opts.Seed, uint64(e.Epoch), 2))
	e.Windows = len(examples)
	var err error
	if e.Loss, err = f.pass(ctx, e.Epoch, examples); err != nil {
		return err
	}
	valid, sources, err := f.scorer.score(ctx)
	if err != nil {
		return err
	}
	e.Valid, e.Best = valid, f.Best == 0 || valid.Pinball < f.Valid.Pinball
	if e.Best {
		f.Best, f.Valid, f.Sources, f.best = e.Epoch, valid, sources, cloneAll(f.data)
	}
	e.Seconds = math.Round(time.Since(began).Seconds()*10) / 10
	f.Epochs = append(f.Epochs, e)
	if err := f.save(); err != nil {
		return err
	}
	if f.opts.Epoch != nil {
		f.opts.Epoch(e)
	}
	return nil
}

// pass takes one gradient step per batch and returns the mean loss.
func (f *fit) pass(ctx context.Context, epoch int, examples []example) (float64, error) {
	rng := stream(f.opts.Seed, uint64(epoch), 3)
	total, count := (len(examples)+f.opts.Batch-1)/f.opts.Batch, 0
	sum := 0.0
	for part := range slices.Chunk(examples, f.opts.Batch) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		share := (float64(epoch-1) + float64(count)/float64(total)) / float64(f.opts.Epochs)
		f.solver.rate = cycle(f.opts.LearnRate, share)
		l, err := f.step(part, rng)
		if err != nil {
			return 0, err
		}
		count++
		sum += l
		if f.opts.Progress != nil {
			f.opts.Progress(Progress{Epoch: epoch, Epochs: f.opts.Epochs, Step: count, Steps: total, Loss: sum / float64(count)})
		}
	}
	return sum / float64(max(1, count)), nil
}

var errDiverged = errors.New("the loss is no number; try a lower learning rate")

func (f *fit) step(part []example, rng *rand.Rand) (float64, error) {
	g := f.graph
	b := batch{x: g.x, context: g.context, target: g.target, there: g.there}
	if err := b.fill(f.ds, part); err != nil {
		return 0, err
	}
	drop(g.keep, f.opts.Dropout, rng)
	if err := g.run(); err != nil {
		return 0, err
	}
	norm, err := clipNorm(f.params, f.opts.MaxNorm)
	if err != nil {
		return 0, err
	}
	if l := g.lossValue(); !math.IsNaN(l+norm) && !math.IsInf(l+norm, 0) {
		return l, f.solver.Step(f.params)
	}
	return 0, errDiverged
}

// drop writes the factors of dropout: 0 for the share that is left out, and as
// much more for the rest, so that sums keep their size. gorgonia's own dropout
// cannot be seeded and divides its gradient by the wrong share.
func drop(keep []float32, share float64, rng *rand.Rand) {
	for i := range keep {
		keep[i] = 0
		if rng.Float64() >= share {
			keep[i] = float32(1 / (1 - share))
		}
	}
}
