package cnnlstm

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/kubeforecaster/kubeforecaster/forecaster"
)

// minPerSeries is how many windows a series gives even where its source has so
// many series that its share would be less.
const minPerSeries = 20

// unlimited lookback reaches the first sample.
const unlimited = math.MaxInt

// example is one window to learn from or to be scored on.
type example struct {
	history  int // position in the dataset
	origin   int // position in the series
	lookback int // steps before the origin that the window holds
	alone    bool
}

// window cuts the example. The companion is left out where it says so.
func (e example) window(ds forecaster.Dataset) (forecaster.Window, bool) {
	h := ds.Histories[e.history]
	if e.alone {
		h.With = forecaster.Series{}
	}
	reach := int(week/h.Series.Step) + before + 1
	w, ok := h.Window(e.origin, min(e.lookback, reach))
	return w, ok && w.Observed >= minSteps && w.Step >= time.Second
}

// share is how many examples each history gives, so that every source gives
// about perSource.
func share(ds forecaster.Dataset, perSource int) []int {
	count := map[string]int{}
	for _, h := range ds.Histories {
		count[h.Source]++
	}
	out := make([]int, len(ds.Histories))
	for i, h := range ds.Histories {
		out[i] = max(minPerSeries, perSource/count[h.Source])
	}
	return out
}

// drawTraining draws examples of the training part at random, in random order,
// with histories of random length.
func drawTraining(ds forecaster.Dataset, perSource int, rng *rand.Rand) []example {
	var out []example
	for i, n := range share(ds, perSource) {
		h := ds.Histories[i]
		lo, hi := ds.Train(h)
		for range n {
			if e, ok := drawOne(h, lo, hi, rng); ok {
				e.history = i
				out = append(out, e)
			}
		}
	}
	rng.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// tries bounds how often a sample is drawn again where it is missing.
const tries = 20

func drawOne(h forecaster.History, lo, hi int, rng *rand.Rand) (example, bool) {
	if hi <= lo {
		return example{}, false
	}
	e := example{lookback: drawLookback(h.Series.Step, rng), alone: rng.Float64() < 0.3}
	for range tries {
		e.origin = lo + rng.IntN(hi-lo)
		if usable(h, e.origin) {
			return e, true
		}
	}
	return example{}, false
}

// drawLookback makes the network meet what it meets in service: new workloads
// with a few minutes of history, a day without a week, and all there is.
func drawLookback(step time.Duration, rng *rand.Rand) int {
	switch p := rng.Float64(); {
	case p < 0.15:
		return minSteps - 1 + rng.IntN(steps-minSteps)
	case p < 0.35:
		return steps
	case p < 0.7:
		return int(day/step) + before + 1
	default:
		return unlimited
	}
}

// usable reports whether position i of h is observed, has enough behind it, and
// any target.
func usable(h forecaster.History, i int) bool {
	if math.IsNaN(h.Series.Values[i]) {
		return false
	}
	behind := h.Series.Values[max(0, i-minSteps+1) : i+1]
	return len(behind) == minSteps && !slices.ContainsFunc(behind, math.IsNaN) &&
		slices.ContainsFunc(h.Targets(i), func(v float64) bool { return !math.IsNaN(v) })
}

// spreadValidation takes examples of the validation part, evenly spaced over
// every series, with all their history.
func spreadValidation(ds forecaster.Dataset, perSource int) []example {
	var out []example
	for i, n := range share(ds, perSource) {
		h := ds.Histories[i]
		lo, hi := ds.Valid(h)
		stride := max(1, (hi-lo)/n)
		for at := lo; at < hi; at += stride {
			if usable(h, at) {
				out = append(out, example{history: i, origin: at, lookback: unlimited})
			}
		}
	}
	return out
}

// batch writes examples to the inputs and targets of consecutive places. Places
// beyond have no targets.
type batch struct {
	x, context    []float32
	target, there []float32
}

func (b batch) fill(ds forecaster.Dataset, es []example) error {
	clear(b.there)
	for i, e := range es {
		w, ok := e.window(ds)
		if !ok {
			return fmt.Errorf("position %d of series %v is no window", e.origin, ds.Histories[e.history].Series.Labels)
		}
		s := encode(w, b.x[i*steps*channels:][:steps*channels], b.context[i*contextLen:][:contextLen])
		for j, v := range ds.Histories[e.history].Targets(e.origin) {
			b.target[i*horizon+j] = 0
			if !math.IsNaN(v) {
				b.target[i*horizon+j], b.there[i*horizon+j] = s.norm(v), 1
			}
		}
	}
	return nil
}
