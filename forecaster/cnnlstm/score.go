package cnnlstm

import (
	"cmp"
	"context"
	"math"
	"slices"

	"github.com/kubeforecaster/kubeforecaster/forecaster"
)

// Score is how good quantiles are on windows. Losses are in units of each
// window's own scale, so that a large workload does not drown a small one, and
// are means over all steps.
type Score struct {
	Windows int `json:"windows"`
	// Pinball is the mean loss over all levels, Median that of the median alone.
	Pinball float64 `json:"pinball"`
	Median  float64 `json:"median_pinball"`
	// Persistence is the Pinball of the last value plus the quantiles of its
	// changes over the training windows, PersistenceMedian the Median of the
	// last value.
	Persistence       float64 `json:"persistence_pinball"`
	PersistenceMedian float64 `json:"persistence_median_pinball"`
	// Coverage is the share of targets at or below the 0.9 quantile.
	Coverage float64 `json:"coverage_0.9"`
}

// SourceScore is the score on the windows of one source.
type SourceScore struct {
	Source string `json:"source"`
	Score
}

// loss is the pinball loss of quantile q at a level when y happened.
func loss(level, q, y float64) float64 { return max(level*(y-q), (level-1)*(y-q)) }

// tally adds up scores over targets.
type tally struct {
	windows, targets int
	sum              Score
}

func (t *tally) add(y float64, q []float32, drift []float64) {
	levels := forecaster.Levels()
	t.targets++
	for k, level := range levels {
		t.sum.Pinball += loss(level, float64(q[k]), y) / float64(len(levels))
		t.sum.Persistence += loss(level, drift[k], y) / float64(len(levels))
	}
	t.sum.Median += loss(0.5, float64(q[median]), y)
	t.sum.PersistenceMedian += loss(0.5, 0, y)
	if y <= float64(q[slices.Index(levels, 0.9)]) {
		t.sum.Coverage++
	}
}

func (t *tally) merge(o *tally) {
	t.windows += o.windows
	t.targets += o.targets
	t.sum.Pinball += o.sum.Pinball
	t.sum.Persistence += o.sum.Persistence
	t.sum.Median += o.sum.Median
	t.sum.PersistenceMedian += o.sum.PersistenceMedian
	t.sum.Coverage += o.sum.Coverage
}

func (t *tally) score() Score {
	n := float64(max(1, t.targets))
	return Score{
		Windows: t.windows, Pinball: t.sum.Pinball / n, Median: t.sum.Median / n,
		Persistence: t.sum.Persistence / n, PersistenceMedian: t.sum.PersistenceMedian / n, Coverage: t.sum.Coverage / n,
	}
}

// scorer forecasts the validation windows with the weights of a fit.
type scorer struct {
	ds       forecaster.Dataset
	examples []example
	drift    [horizon][]float64 // quantiles of normalised changes, by step
	graph    *graph
	batch    batch
}

func newScorer(ds forecaster.Dataset, valid, train []example, data [][]float32) (*scorer, error) {
	g, err := newGraph(batches[len(batches)-1], data, false)
	if err != nil {
		return nil, err
	}
	s := &scorer{ds: ds, examples: valid, graph: g}
	s.batch = batch{x: g.x, context: g.context, target: make([]float32, g.batch*horizon), there: make([]float32, g.batch*horizon)}
	s.drift, err = s.drifts(train)
	return s, err
}

// driftWindows is how many windows the changes are taken from: enough for the
// 0.99 quantile to hold still.
const driftWindows = 20_000

// drifts returns the quantiles of the changes from the last value, by step.
func (s *scorer) drifts(train []example) (out [horizon][]float64, err error) {
	var changes [horizon][]float64
	for part := range slices.Chunk(train[:min(len(train), driftWindows)], s.graph.batch) {
		if err := s.batch.fill(s.ds, part); err != nil {
			return out, err
		}
		for at, there := range s.batch.there {
			if there != 0 {
				changes[at%horizon] = append(changes[at%horizon], float64(s.batch.target[at]))
			}
		}
	}
	for j, c := range changes {
		slices.Sort(c)
		for _, level := range forecaster.Levels() {
			v := 0.0
			if len(c) > 0 {
				v = c[int(math.Round(level*float64(len(c)-1)))]
			}
			out[j] = append(out[j], v)
		}
	}
	return out, nil
}

// score returns the score over all windows and by source, ordered by source.
func (s *scorer) score(ctx context.Context) (Score, []SourceScore, error) {
	bySource := map[string]*tally{}
	for part := range slices.Chunk(s.examples, s.graph.batch) {
		if err := ctx.Err(); err != nil {
			return Score{}, nil, err
		}
		if err := s.batch.fill(s.ds, part); err != nil {
			return Score{}, nil, err
		}
		if err := s.graph.run(); err != nil {
			return Score{}, nil, err
		}
		s.tally(part, bySource)
	}
	var all tally
	var sources []SourceScore
	for name, t := range bySource {
		sources = append(sources, SourceScore{Source: name, Score: t.score()})
	}
	slices.SortFunc(sources, func(a, b SourceScore) int { return cmp.Compare(a.Source, b.Source) })
	for _, source := range sources { // In order, so that sums come out equal every time.
		all.merge(bySource[source.Source])
	}
	return all.score(), sources, nil
}

func (s *scorer) tally(part []example, bySource map[string]*tally) {
	levels := len(forecaster.Levels())
	for i, e := range part {
		name := s.ds.Histories[e.history].Source
		if bySource[name] == nil {
			bySource[name] = &tally{}
		}
		t := bySource[name]
		t.windows++
		for j := range horizon {
			if at := i*horizon + j; s.batch.there[at] != 0 {
				t.add(float64(s.batch.target[at]), s.graph.quantiles()[at*levels:][:levels], s.drift[j])
			}
		}
	}
}
