package forecaster

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/prometheus/common/model"
)

// Sentinels that callers branch on.
var (
	// ErrNoData says that a query or a series holds no sample at all.
	ErrNoData = errors.New("no data")
	// ErrShortHistory says that a window holds fewer observed samples than the
	// model needs.
	ErrShortHistory = errors.New("history too short")
)

// Series is one labelled stream of samples on a grid. Values[i] was taken at
// Start + i*Step; a missing sample is NaN. Start is a multiple of Step since
// the Unix epoch. Whoever is given a
// Series must not change it.
type Series struct {
	Labels model.Metric
	Start  time.Time
	Step   time.Duration
	Values []float64
}

// Time returns the time of Values[i].
func (s Series) Time(i int) time.Time { return s.Start.Add(time.Duration(i) * s.Step) }

// index returns the position of the last grid point at or before t. It may lie
// outside Values.
func (s Series) index(t time.Time) int {
	d := t.Sub(s.Start)
	if d < 0 {
		return -1
	}
	return int(d / s.Step)
}

// Range is a stretch of time on a grid: Start, Start+Step, ..., End, both
// inclusive.
type Range struct {
	Start, End time.Time
	Step       time.Duration
}

// Align returns the largest range within r whose ends are multiples of the step
// since the Unix epoch, so that repeated queries hit the same grid.
func (r Range) Align() Range {
	return Range{Start: alignUp(r.Start, r.Step), End: Align(r.End, r.Step), Step: r.Step}
}

// Len is the number of grid points of an aligned range.
func (r Range) Len() int {
	if r.End.Before(r.Start) {
		return 0
	}
	return int(r.End.Sub(r.Start)/r.Step) + 1
}

// String gives the range as an error message shows it.
func (r Range) String() string {
	return fmt.Sprintf("%s to %s by %s", r.Start.UTC().Format(time.RFC3339), r.End.UTC().Format(time.RFC3339), r.Step)
}

// Align returns the last multiple of step since the Unix epoch at or before t.
func Align(t time.Time, step time.Duration) time.Time {
	ns := t.UnixNano()
	return time.Unix(0, ns-((ns%int64(step))+int64(step))%int64(step)).UTC()
}

func alignUp(t time.Time, step time.Duration) time.Time {
	a := Align(t, step)
	if a.Before(t) {
		a = a.Add(step)
	}
	return a
}

// QueryFunc returns the history of every series that expr selects, all on the
// grid of r and ordered by labels, or ErrNoData when it selects none.
type QueryFunc func(ctx context.Context, expr string, r Range) ([]Series, error)

// observed reports whether v is a sample, that is neither missing nor infinite.
func observed(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

var (
	nan = math.NaN()
	inf = math.Inf(1)
)
