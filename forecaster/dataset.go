package forecaster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Trainer fits models.
type Trainer interface {
	// Train returns a new model fitted to ds. It starts from the weights of
	// base, or from random ones when base is nil, and leaves base untouched. It
	// stops soon after ctx is done and then returns its error.
	Train(ctx context.Context, base Model, ds Dataset) (Model, error)
}

// History is one series of a dataset, with the series that is known beside it.
type History struct {
	// Source says where the series comes from, such as the name of a file. A
	// source with many series counts no more than one with few.
	Source string
	Series Series
	// With is the companion, such as the memory of the same pods for their CPU,
	// on the same grid. It is the zero Series when there is none.
	With Series
}

// Dataset is what a model is fitted to and scored on. Every series is split by
// time, never at random: its first part trains, the next validates, the rest is
// left for tests. A window belongs to the part that holds all its targets; what
// it looks back on may lie in an earlier part, as it would in service.
type Dataset struct {
	Histories []History
	Split     Split
}

// Split is the share of every series that trains and the share after it that
// validates. The zero value means DefaultSplit.
type Split struct {
	Train, Valid float64
}

// DefaultSplit leaves the last 15 % of every series for tests.
var DefaultSplit = Split{Train: 0.7, Valid: 0.15}

// Validate returns an error when the shares do not make a split.
func (s Split) Validate() error {
	if s.Train > 0 && s.Valid >= 0 && s.Train+s.Valid <= 1 {
		return nil
	}
	return fmt.Errorf("split: shares %v and %v are out of range; want a train share above 0 and both at most 1 together", s.Train, s.Valid)
}

func (s Split) orDefault() Split {
	if s == (Split{}) {
		return DefaultSplit
	}
	return s
}

// Train returns the positions lo <= i < hi of h that may be the origin of a
// training window: all HorizonSteps targets lie in the first part.
func (d Dataset) Train(h History) (lo, hi int) {
	return 0, max(0, d.Split.orDefault().trainEnd(h)-HorizonSteps)
}

// Valid returns the positions lo <= i < hi of h that may be the origin of a
// validation window: no target lies in the first part, and all lie before the
// part for tests.
func (d Dataset) Valid(h History) (lo, hi int) {
	s := d.Split.orDefault()
	lo = max(0, s.trainEnd(h)-1)
	end := int((s.Train + s.Valid) * float64(len(h.Series.Values)))
	return lo, max(lo, end-HorizonSteps)
}

func (s Split) trainEnd(h History) int { return int(s.Train * float64(len(h.Series.Values))) }

// Window cuts the window of h whose origin is position i, with at most lookback
// steps of history before the origin. It reports false when the sample at i is
// missing.
func (h History) Window(i, lookback int) (Window, bool) {
	if i < 0 || i >= len(h.Series.Values) || !observed(h.Series.Values[i]) {
		return Window{}, false
	}
	first := max(0, i-lookback)
	cut := h.Series
	cut.Start, cut.Values = h.Series.Time(first), h.Series.Values[first:i+1]
	w, err := NewWindow(cut, h.With, h.Series.Time(i))
	return w, err == nil
}

// Targets returns the HorizonSteps samples after position i, NaN where there is
// none. The caller must not change them.
func (h History) Targets(i int) []float64 {
	end := i + 1 + HorizonSteps
	if end <= len(h.Series.Values) {
		return h.Series.Values[i+1 : end]
	}
	out := make([]float64, HorizonSteps)
	for j := range out {
		out[j] = nan
	}
	if i+1 < len(h.Series.Values) {
		copy(out, h.Series.Values[i+1:])
	}
	return out
}

// ReadDataset reads files in the form that ReadCSV describes, in order. The
// source of a series is the name of its file, without folder and extensions. It
// fails with ErrNoData when the files hold no series at all.
func ReadDataset(ctx context.Context, names ...string) (Dataset, error) {
	var d Dataset
	for _, name := range names {
		hs, err := readFile(ctx, name)
		if err != nil {
			return Dataset{}, err
		}
		d.Histories = append(d.Histories, hs...)
	}
	if len(d.Histories) == 0 {
		return Dataset{}, fmt.Errorf("%s: %w", strings.Join(names, ", "), ErrNoData)
	}
	return d, nil
}

func readFile(ctx context.Context, name string) ([]History, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read dataset: %w", err)
	}
	defer f.Close() //nolint:errcheck // Nothing was written.
	hs, err := ReadCSV(ctx, f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	source, _, _ := strings.Cut(filepath.Base(name), ".")
	for i := range hs {
		hs[i].Source = source
	}
	return hs, nil
}
