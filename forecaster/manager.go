package forecaster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// fillTimeout bounds the first, long query of a rule; later ones have a step.
	fillTimeout = 5 * time.Minute
	// predictBatch is how many windows one call of a model gets, which bounds
	// the memory of a tick.
	predictBatch = 1024
	// concurrentQueries is how many rules of a tick query at the same time.
	concurrentQueries = 8
)

// ManagerOptions are what a Manager works with.
type ManagerOptions struct {
	Rules    []Rule    // with their defaults; see CheckRules
	Query    QueryFunc // reads history
	Model    Model     // forecasts series that have enough history for it
	Fallback Model     // forecasts the others; Persistence when nil
	Store    *Store    // receives the forecasts

	Logger     *slog.Logger          // discards when nil
	Registerer prometheus.Registerer // may be nil
}

// Manager keeps the store fresh. It is safe for concurrent use.
type Manager struct {
	opts    ManagerOptions
	metrics *metrics
	changed chan struct{} // wakes Run after a change of rules

	mu    sync.Mutex // held for a whole tick
	rules []*ruleState

	pendingMu sync.Mutex
	pending   []string // metrics without a successful tick so far
}

// ruleState is a rule at work.
type ruleState struct {
	Rule
	history *history
	done    time.Time // newest grid point that was ticked with success
	served  bool      // something of it was fresh after the last tick
	silent  bool      // that ended, and has been logged
}

// NewManager returns a manager that has done nothing yet.
func NewManager(o ManagerOptions) (*Manager, error) {
	if o.Query == nil || o.Model == nil || o.Store == nil {
		return nil, errors.New("manager: query, model and store are needed")
	}
	if o.Fallback == nil {
		o.Fallback = Persistence{}
	}
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	m := &Manager{opts: o, metrics: newMetrics(o.Registerer), changed: make(chan struct{}, 1)}
	m.metrics.model.WithLabelValues(o.Model.Version()).Set(1)
	if err := m.SetRules(o.Rules); err != nil {
		return nil, err
	}
	return m, nil
}

// CheckRules returns every fault of rules as a set, joined: the faults of each,
// metrics that two rules claim, and companions that are no rule on the same
// step.
func CheckRules(rules []Rule) error {
	var errs []error
	byMetric := map[string]Rule{}
	for i, r := range rules {
		if err := r.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("rule %d (%s): %w", i+1, r.Metric, err))
		}
		if _, twice := byMetric[r.Metric]; twice {
			errs = append(errs, fmt.Errorf("rule %d: metric %q belongs to another rule already", i+1, r.Metric))
		}
		byMetric[r.Metric] = r
	}
	for i, r := range rules {
		if with, ok := byMetric[r.With]; r.With != "" && (!ok || with.Step != r.Step) {
			errs = append(errs, fmt.Errorf("rule %d (%s): with: want the metric of another rule on the step %s, not %q", i+1, r.Metric, r.Step, r.With))
		}
	}
	if len(rules) == 0 {
		errs = append(errs, errors.New("no rule: want at least one"))
	}
	return errors.Join(errs...)
}

// SetRules replaces the rules, all or, when one is at fault, none. Rules that
// are as before keep their history and forecasts. It waits for a tick under way.
func (m *Manager) SetRules(rules []Rule) error {
	if err := CheckRules(rules); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	was := map[string]*ruleState{}
	for _, r := range m.rules {
		was[r.Metric] = r
	}
	m.rules = nil
	for _, r := range rules {
		next := &ruleState{Rule: r, history: newHistory(r)}
		if old := was[r.Metric]; old != nil && old.Expr == r.Expr && old.Step == r.Step && old.Lookback == r.Lookback {
			next.history, next.done, next.served, next.silent = old.history, old.done, old.served, old.silent
			next.history.rule = r
		}
		delete(was, r.Metric)
		m.rules = append(m.rules, next)
	}
	for metric := range was {
		m.metrics.forget(metric)
	}
	m.opts.Store.SetRules(rules)
	m.notePending()
	select {
	case m.changed <- struct{}{}:
	default: // Run has not taken the last change yet and will see this one too.
	}
	return nil
}

// Ready returns nil once every rule has had a tick whose query succeeded, with
// or without data; else an error that names those that had none.
func (m *Manager) Ready() error {
	m.pendingMu.Lock()
	defer m.pendingMu.Unlock()
	if len(m.pending) > 0 {
		return fmt.Errorf("no successful query so far for %s", strings.Join(m.pending, ", "))
	}
	return nil
}

func (m *Manager) notePending() {
	m.pendingMu.Lock()
	defer m.pendingMu.Unlock()
	m.pending = nil
	for _, r := range m.rules {
		if r.done.IsZero() {
			m.pending = append(m.pending, r.Metric)
		}
	}
}

// Run ticks at every step until ctx is done. A tick that fails is logged and
// tried again at the next.
func (m *Manager) Run(ctx context.Context) error {
	for {
		if err := m.Tick(ctx, time.Now()); err != nil && ctx.Err() == nil {
			m.opts.Logger.Warn("Tick failed; older forecasts stay until they expire", "err", err)
		}
		next := time.NewTimer(m.untilNext(time.Now()))
		select {
		case <-next.C:
		case <-m.changed:
		case <-ctx.Done():
			next.Stop()
			return nil
		}
		next.Stop()
	}
}

// untilNext is the time to the next grid point of the finest rule.
func (m *Manager) untilNext(now time.Time) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	step := m.finestStep()
	return Align(now, step).Add(step).Sub(now)
}

func (m *Manager) finestStep() time.Duration {
	step := MaxStep
	for _, r := range m.rules {
		step = min(step, r.Step)
	}
	return step
}

// Tick queries, predicts and stores every rule that has a new grid point at
// now, or whose last tick failed. Rules fail alone; the forecasts of a failed
// rule stay in the store until they expire. The error joins those of all rules.
func (m *Manager) Tick(ctx context.Context, now time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	due := slices.DeleteFunc(slices.Clone(m.rules), func(r *ruleState) bool {
		return !r.done.IsZero() && !Align(now, r.Step).After(r.done)
	})
	errs := m.query(ctx, due, now)
	for i, r := range due {
		if errs[i] == nil {
			errs[i] = m.predict(ctx, r, now)
		}
		m.count(r, errs[i], now)
	}
	for _, r := range m.rules {
		m.reportSilence(r, now)
	}
	m.notePending()
	for i, r := range due {
		if errors.Is(errs[i], ErrNoData) {
			errs[i] = nil // Scaled to zero or not scraped yet: nothing to forecast.
		}
		if errs[i] != nil {
			errs[i] = fmt.Errorf("%s: %w", r.Metric, errs[i])
		}
	}
	return errors.Join(errs...)
}

// query refreshes the histories of the rules that are due, several at a time,
// and returns an error for each.
func (m *Manager) query(ctx context.Context, due []*ruleState, now time.Time) []error {
	errs := make([]error, len(due))
	slots := make(chan struct{}, concurrentQueries)
	var wg sync.WaitGroup
	for i, r := range due {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			started := time.Now()
			errs[i] = m.refresh(ctx, r, now)
			m.metrics.duration.WithLabelValues(r.Metric, "query").Observe(time.Since(started).Seconds())
		})
	}
	wg.Wait()
	return errs
}

func (m *Manager) refresh(ctx context.Context, r *ruleState, now time.Time) error {
	limit := r.Step
	if r.history.end.IsZero() {
		limit = fillTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := r.history.refresh(ctx, m.opts.Query, now); err != nil {
		return fmt.Errorf("query history: %w", err)
	}
	return nil
}

// predict forecasts every fresh series of a rule and puts the forecasts in the
// store.
func (m *Manager) predict(ctx context.Context, r *ruleState, now time.Time) error {
	started := time.Now()
	windows := r.history.windows(m.companion(r), now)
	forecasts := make([]Forecast, 0, len(windows))
	for batch := range slices.Chunk(windows, predictBatch) {
		fs, err := m.forecast(ctx, r.Metric, batch)
		if err != nil {
			return fmt.Errorf("predict: %w", err)
		}
		forecasts = append(forecasts, fs...)
	}
	m.opts.Store.Put(r.Metric, forecasts)
	m.metrics.duration.WithLabelValues(r.Metric, "predict").Observe(time.Since(started).Seconds())
	m.countSources(r.Metric, forecasts)
	return nil
}

func (m *Manager) companion(r *ruleState) *history {
	for _, other := range m.rules {
		if other.Metric == r.With {
			return other.history
		}
	}
	return nil
}

// forecast asks the model, and the fallback for those windows that the model
// cannot take or answered with nonsense. Forecasts keep the order of ws.
func (m *Manager) forecast(ctx context.Context, metric string, ws []Window) ([]Forecast, error) {
	out := make([]Forecast, len(ws))
	long, enough := make([]int, 0, len(ws)), m.opts.Model.Shape().MinSteps
	for i, w := range ws {
		if w.Observed >= enough {
			long = append(long, i)
		}
	}
	if err := m.fill(ctx, metric, m.opts.Model, ws, long, out); err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		m.opts.Logger.Error("Model failed; falling back", "metric", metric, "model", m.opts.Model.Version(), "fallback", m.opts.Fallback.Version(), "err", err)
	}
	var rest []int
	for i := range out {
		if out[i].Levels == nil {
			rest = append(rest, i)
		}
	}
	if err := m.fill(ctx, metric, m.opts.Fallback, ws, rest, out); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(out, func(f Forecast) bool { return f.Levels == nil }), nil
}

// fill forecasts the windows at the given positions with model and writes the
// valid forecasts to the same positions of out.
func (m *Manager) fill(ctx context.Context, metric string, model Model, ws []Window, at []int, out []Forecast) error {
	if len(at) == 0 {
		return nil
	}
	some := make([]Window, len(at))
	for k, i := range at {
		some[k] = ws[i]
	}
	fs, err := model.Predict(ctx, some)
	if err != nil {
		return err
	}
	if len(fs) != len(at) {
		return fmt.Errorf("model %s returned %d forecasts for %d windows", model.Version(), len(fs), len(at))
	}
	for k, i := range at {
		if !fs[k].valid() {
			m.metrics.refused.WithLabelValues(metric, model.Version()).Inc()
			continue
		}
		out[i] = fs[k]
	}
	return nil
}

func (m *Manager) count(r *ruleState, err error, now time.Time) {
	outcome := outcomeOK
	switch {
	case errors.Is(err, ErrNoData):
		outcome = outcomeNoData
	case err != nil:
		outcome = outcomeError
	}
	m.metrics.ticks.WithLabelValues(r.Metric, outcome).Inc()
	m.metrics.series.WithLabelValues(r.Metric).Set(float64(len(r.history.series)))
	if outcome == outcomeError {
		return
	}
	r.done = Align(now, r.Step)
	m.metrics.lastSuccess.WithLabelValues(r.Metric).Set(float64(now.UnixMilli()) / 1000)
}

func (m *Manager) countSources(metric string, fs []Forecast) {
	by := map[string]int{}
	for _, f := range fs {
		by[f.Model]++
	}
	m.metrics.source.DeletePartialMatch(prometheus.Labels{"metric": metric})
	for version, n := range by {
		m.metrics.source.WithLabelValues(metric, version).Set(float64(n))
	}
}

// reportSilence logs when nothing of a rule is fresh any more, and when it is
// again. A rule that never had a forecast is not silent but new.
func (m *Manager) reportSilence(r *ruleState, now time.Time) {
	snap, _ := m.opts.Store.Snapshot(r.Metric)
	fresh := slices.ContainsFunc(snap.Forecasts, func(f Forecast) bool { return r.Fresh(f, now) })
	switch {
	case r.served && !fresh:
		r.silent = true
		m.opts.Logger.Warn("No fresh forecast; the metric is answered with an empty list", "metric", r.Metric, "max_age", r.MaxAge)
	case r.silent && fresh:
		r.silent = false
		m.opts.Logger.Info("Forecasts are fresh again", "metric", r.Metric)
	}
	r.served = fresh
}
