package forecaster

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/common/model"
)

// overlapSteps is how many of the newest known steps a refresh asks for again at
// least: samples arrive late, and the newest step of a rate is made of few of
// them. A rule that allows for older samples asks for as many steps as it allows.
const overlapSteps = 5

// history keeps the lookback of every series of one rule and asks only for
// what is new. One goroutine at a time may refresh it and use its windows; others
// may meanwhile read it as a companion.
type history struct {
	expr           string
	step, lookback time.Duration
	overlap        time.Duration

	mu     sync.RWMutex // guards what follows against readers of a companion
	end    time.Time    // newest grid point that was asked for; zero before the first fill
	series map[model.Fingerprint]*Series
}

func newHistory(r Rule) *history {
	return &history{
		expr: r.Expr, step: r.Step, lookback: r.Lookback, overlap: max(overlapSteps*r.Step, r.MaxAge),
		series: map[model.Fingerprint]*Series{},
	}
}

// serves reports whether the history is the one that the rule needs.
func (h *history) serves(r Rule) bool {
	next := newHistory(r)
	return h.expr == next.expr && h.step == next.step && h.lookback == next.lookback && h.overlap == next.overlap
}

// refresh asks for what is missing up to now and drops series that the lookback
// no longer holds. When it fails the history stays as it was. ErrNoData says
// that the query selected nothing in the stretch asked for.
func (h *history) refresh(ctx context.Context, query QueryFunc, now time.Time) error {
	end := Align(now, h.step)
	if h.end.After(end) {
		h.forget() // The clock was ahead; what is held lies in the wrong place.
	}
	found, err := query(ctx, h.expr, h.missing(end))
	if err != nil && !errors.Is(err, ErrNoData) {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if end.After(h.end) {
		h.advance(end)
	}
	for _, s := range found {
		h.merge(s)
	}
	h.dropSilent()
	return err
}

// forget makes the history as it was before the first fill.
func (h *history) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.end = time.Time{}
	clear(h.series)
}

// missing is the range to ask for: all of the lookback at first and after an
// outage of its length, else the newest steps.
func (h *history) missing(end time.Time) Range {
	start := end.Add(-h.lookback)
	if known := h.end.Add(-h.overlap); known.After(start) {
		start = known
	}
	return Range{Start: start, End: end, Step: h.step}.Align()
}

// length is the number of grid points that a series keeps.
func (h *history) length() int { return int(h.lookback/h.step) + 1 }

// advance moves the grid of every series on so that it ends at end.
func (h *history) advance(end time.Time) {
	n := h.length()
	for _, s := range h.series {
		shift := min(n, int(end.Sub(h.end)/h.step))
		copy(s.Values, s.Values[shift:])
		for i := n - shift; i < n; i++ {
			s.Values[i] = nan
		}
		s.Start = end.Add(-time.Duration(n-1) * h.step)
	}
	h.end = end
}

// merge writes the observed samples of s over what is known. A sample that is
// missing in s does not erase one that was seen earlier.
func (h *history) merge(s Series) {
	key := s.Labels.Fingerprint()
	own := h.series[key]
	if own == nil {
		n := h.length()
		own = &Series{Labels: s.Labels, Start: h.end.Add(-time.Duration(n-1) * h.step), Step: h.step, Values: make([]float64, n)}
		for i := range own.Values {
			own.Values[i] = nan
		}
		h.series[key] = own
	}
	for i, v := range s.Values {
		if j := own.index(s.Time(i)); observed(v) && j >= 0 && j < len(own.Values) {
			own.Values[j] = v
		}
	}
}

func (h *history) dropSilent() {
	for key, s := range h.series {
		if !slices.ContainsFunc(s.Values, observed) {
			delete(h.series, key)
		}
	}
}

// windows returns a window of every series that is no older than maxAge at now,
// ordered by labels, with the companion of equal labels where the other history
// has one.
func (h *history) windows(with *history, now time.Time, maxAge time.Duration) []Window {
	if with != nil {
		with.mu.RLock() // A window copies its companion.
		defer with.mu.RUnlock()
	}
	var out []Window
	for key, s := range h.series {
		var companion Series
		if with != nil && with.series[key] != nil {
			companion = *with.series[key]
		}
		w, err := NewWindow(*s, companion, now)
		if err == nil && now.Sub(w.Origin) <= maxAge {
			out = append(out, w)
		}
	}
	slices.SortFunc(out, func(a, b Window) int { return compareLabels(a.Labels, b.Labels) })
	return out
}

// compareLabels orders metrics by their label names and values.
func compareLabels(a, b model.Metric) int {
	switch {
	case a.Before(b):
		return -1
	case b.Before(a):
		return 1
	}
	return 0
}
