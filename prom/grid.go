package prom

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"

	"github.com/kubeforecaster/kubeforecaster/forecaster"
)

// grid gathers the answers to one query, which come in order of time, and puts
// their samples on the points of the range r:
//
//   - A sample belongs to the first grid point at or after it, as an instant
//     query at that point would have seen it; so no point ever holds a sample
//     from after its time. Prometheus answers on the grid, and nothing moves.
//   - Servers that round times may be off by some milliseconds: late by up to a
//     twentieth of the step, and at most a second, still counts as on the point.
//   - Samples before the first or after the last point are ignored, but for as
//     much.
//   - Where several samples belong to one point, the last one holds.
//   - NaN, which stale markers are too, and infinities are missing samples, and
//     so is what never came: NaN.
//   - Native histograms are no numbers; they are skipped and counted.
//
// Series are told apart by their labels without __name__.
type grid struct {
	r                forecaster.Range // aligned
	start, end, step int64            // of r, in milliseconds
	slack            int64            // by how much a sample may be off, in milliseconds
	points           int
	maxSeries        int

	rows       map[string]*row // by key of labels
	answers    int             // so far
	histograms int             // samples skipped
}

// row is a series in the making.
type row struct {
	key    string
	name   model.LabelValue // __name__, which the series will not have
	answer int              // the newest answer that held it
	series forecaster.Series
}

func newGrid(r forecaster.Range, maxSeries int) *grid {
	step := r.Step.Milliseconds()
	return &grid{
		r: r, start: r.Start.UnixMilli(), end: r.End.UnixMilli(), step: step,
		slack:  min(step/20, time.Second.Milliseconds()),
		points: r.Len(), maxSeries: maxSeries,
		rows: make(map[string]*row),
	}
}

// add takes in an answer. It keeps and changes the labels of m.
func (g *grid) add(m model.Matrix) error {
	g.answers++
	for _, stream := range m {
		row, err := g.row(stream.Metric)
		if err != nil {
			return err
		}
		g.histograms += len(stream.Histograms)
		for _, s := range stream.Values {
			if i, ok := g.index(s.Timestamp); ok {
				row.series.Values[i] = number(float64(s.Value))
			}
		}
	}
	return nil
}

// row returns the row of a series, which it takes __name__ from, and makes it
// when there is none yet.
func (g *grid) row(labels model.Metric) (*row, error) {
	name := labels[model.MetricNameLabel]
	delete(labels, model.MetricNameLabel)
	key := labelsKey(labels)
	r, ok := g.rows[key]
	if !ok {
		return g.newRow(key, name, labels)
	}
	if r.name != name || r.answer == g.answers {
		return nil, fmt.Errorf("%w: two series, %q and %q, are alike but for the name of their metric: %v; want an expression that gives each label set once",
			ErrBadQuery, r.name, name, labels)
	}
	r.answer = g.answers
	return r, nil
}

func (g *grid) newRow(key string, name model.LabelValue, labels model.Metric) (*row, error) {
	if len(g.rows) >= g.maxSeries {
		return nil, fmt.Errorf("%w: more than %d series; want an expression with fewer", ErrTooLarge, g.maxSeries)
	}
	if (len(g.rows)+1)*g.points > maxCells {
		return nil, fmt.Errorf("%w: more than %d series of %d points; want fewer series, a shorter lookback or a longer step",
			ErrTooLarge, len(g.rows), g.points)
	}
	values := make([]float64, g.points)
	for i := range values {
		values[i] = math.NaN()
	}
	r := &row{key: key, name: name, answer: g.answers, series: forecaster.Series{
		Labels: labels, Start: g.r.Start, Step: g.r.Step, Values: values,
	}}
	g.rows[key] = r
	return r, nil
}

// index returns the grid point that a sample belongs to, and whether there is
// one.
func (g *grid) index(t model.Time) (int, bool) {
	ms := int64(t)
	if ms < g.start-g.slack || ms > g.end+g.slack {
		return 0, false
	}
	late := ms - g.slack - g.start
	return int((late + g.step - 1) / g.step), true
}

// series returns the rows with at least one number in them, ordered by labels.
func (g *grid) series() ([]forecaster.Series, error) {
	rows := make([]*row, 0, len(g.rows))
	for _, r := range g.rows {
		if slices.ContainsFunc(r.series.Values, func(v float64) bool { return !math.IsNaN(v) }) {
			rows = append(rows, r)
		}
	}
	if len(rows) == 0 {
		return nil, g.noData()
	}
	slices.SortFunc(rows, func(a, b *row) int { return strings.Compare(a.key, b.key) })
	out := make([]forecaster.Series, len(rows))
	for i, r := range rows {
		out[i] = r.series
	}
	return out, nil
}

// noData says in which way there is none.
func (g *grid) noData() error {
	switch {
	case len(g.rows) == 0:
		return fmt.Errorf("%w: no series", forecaster.ErrNoData)
	case g.histograms > 0:
		return fmt.Errorf("%w: %d series, but only native histograms, which are no numbers", forecaster.ErrNoData, len(g.rows))
	}
	return fmt.Errorf("%w: %d series, but not one number in the range", forecaster.ErrNoData, len(g.rows))
}

// number returns v, or NaN for an infinity.
func number(v float64) float64 {
	if math.IsInf(v, 0) {
		return math.NaN()
	}
	return v
}

// labelsKey is a text that differs between label sets and sorts like them: the
// names in order, each with its value. A zero byte ends each part, and is
// followed by a byte that begins no UTF-8 where it is part of one.
func labelsKey(labels model.Metric) string {
	names := make([]string, 0, len(labels))
	size := 0
	for name, value := range labels {
		names = append(names, string(name))
		size += len(name) + len(value) + 2
	}
	slices.Sort(names)
	var b strings.Builder
	b.Grow(size)
	for _, name := range names {
		for _, part := range [...]string{name, string(labels[model.LabelName(name)])} {
			b.WriteString(strings.ReplaceAll(part, "\x00", "\x00\xff"))
			b.WriteByte(0)
		}
	}
	return b.String()
}
