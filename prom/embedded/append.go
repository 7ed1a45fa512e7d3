package embedded

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
)

// Series is what Append writes of one time series: Values[i] at Times[i].
type Series struct {
	Labels map[string]string // includes __name__; an empty value is no label
	Times  []int64           // milliseconds since the Unix epoch, rising; may be shared between series
	Values []float64         // any float, NaN and StaleMarker included; as many as Times
}

// StaleMarker is the value that ends a series, as Prometheus writes it when a
// target or one of its series goes away. It is one of the NaNs: compare its
// bits, not its value.
func StaleMarker() float64 { return math.Float64frombits(value.StaleNaN) }

// commitEvery bounds the samples of one transaction. The database remembers
// the transaction of each sample until the next one, in a list per series that
// never shrinks: at 20,000 those lists took 16 of 18 MiB of heap for a million
// samples, at 240 they take next to nothing and the time is the same.
const commitEvery = 240

// Append writes samples as far back as the retention, counted from the newest
// sample there is, whether or not the series are being scraped meanwhile.
// Within a series, order by time is fast and disorder is not an error; for
// equal times the database keeps one of the values. It keeps neither ss nor
// what ss holds.
//
// Samples are committed some hundreds at a time: an error leaves what was
// written before.
func (s *Server) Append(ctx context.Context, ss []Series) error {
	release, err := s.acquire()
	if err != nil {
		return err
	}
	defer release()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.closing, cancel)()
	a := appender{ctx: ctx, db: s.db}
	for i := range ss {
		if err := a.add(ss[i]); err != nil {
			return errors.Join(fmt.Errorf("append series %d, %v: %w", i, ss[i].Labels, err), a.rollback())
		}
	}
	if err := a.commit(); err != nil {
		return err
	}
	s.db.ForceHeadMMap() // Full chunks move from the heap to a file.
	return nil
}

// appender is one call of Append: a transaction that is renewed as it fills.
type appender struct {
	ctx     context.Context // of the call, which it does not outlive
	db      *tsdb.DB
	tx      storage.AppenderV2 // nil between transactions
	pending int
}

func (a *appender) add(s Series) error {
	ls, err := s.labels()
	if err != nil {
		return err
	}
	var ref storage.SeriesRef
	for i, t := range s.Times {
		if err := a.begin(); err != nil {
			return err
		}
		ref, err = a.tx.Append(ref, ls, 0, t, s.Values[i], nil, nil, storage.AppendV2Options{})
		if err != nil {
			return fmt.Errorf("sample %d, at %s: %w", i, time.UnixMilli(t).UTC().Format(time.RFC3339Nano), err)
		}
		if a.pending++; a.pending < commitEvery {
			continue
		}
		if err := a.commit(); err != nil {
			return err
		}
	}
	return nil
}

// begin opens a transaction unless one is open.
func (a *appender) begin() error {
	if a.tx != nil {
		return nil
	}
	if err := a.ctx.Err(); err != nil {
		return err
	}
	a.tx = a.db.AppenderV2(a.ctx)
	return nil
}

func (a *appender) commit() error {
	if a.tx == nil {
		return nil
	}
	tx := a.tx
	a.tx, a.pending = nil, 0
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit samples: %w", err)
	}
	return nil
}

func (a *appender) rollback() error {
	if a.tx == nil {
		return nil
	}
	return a.tx.Rollback()
}

// labels checks the series and returns its labels as the database wants them.
func (s Series) labels() (labels.Labels, error) {
	if len(s.Times) != len(s.Values) {
		return labels.Labels{}, fmt.Errorf("%d times and %d values; want as many of each", len(s.Times), len(s.Values))
	}
	ls := labels.FromMap(s.Labels).WithoutEmpty()
	if ls.Get(model.MetricNameLabel) == "" {
		return ls, fmt.Errorf("label %s: missing; want the name of the metric", model.MetricNameLabel)
	}
	if !ls.IsValid(model.UTF8Validation) {
		return ls, errors.New("a label name or value is not valid; want names that are not empty, all in UTF-8")
	}
	return ls, nil
}
