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
	// fillTimeout bounds a query that fills a history or catches up after an
	// outage, that is one over more than fillSteps steps; others have a step.
	fillTimeout = 5 * time.Minute
	fillSteps   = 3 * overlapSteps
	// companionWait is the share of a step that a forecast waits for the newest
	// samples of its companion.
	companionWait = 10
	// predictBatch is how many windows one call of a model gets, which bounds
	// the memory of a tick.
	predictBatch = 1024
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

	mu    sync.Mutex // guards what follows; never held for long
	rules []*ruleState
	ready bool // every rule of the start has had a successful tick
}

// ruleState is a rule at work. The manager's mutex guards it, but for the
// history, which belongs to the tick under way.
type ruleState struct {
	Rule
	history *history
	busy    bool      // a tick of it is under way
	done    time.Time // newest grid point that was ticked with success
	served  bool      // something of it was fresh when last looked at
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
	<-m.changed // Run begins with a tick anyway.
	return m, nil
}

// CheckRules returns every fault of rules as a set, joined: the faults of each,
// metrics that two rules claim, and companions that are no rule on the same
// step.
func CheckRules(rules []Rule) error {
	var errs []error
	byMetric := map[string]Rule{}
	for _, r := range rules {
		if err := r.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("rule %q: %w", r.Metric, err))
		}
		if _, twice := byMetric[r.Metric]; twice {
			errs = append(errs, fmt.Errorf("rule %q: another rule makes this metric already", r.Metric))
		}
		byMetric[r.Metric] = r
	}
	for _, r := range rules {
		if with, ok := byMetric[r.With]; r.With != "" && (!ok || with.Step != r.Step) {
			errs = append(errs, fmt.Errorf("rule %q: with: want the metric of another rule on the step %s, not %q", r.Metric, r.Step, r.With))
		}
	}
	if len(rules) == 0 {
		errs = append(errs, errors.New("no rule: want at least one"))
	}
	return errors.Join(errs...)
}

// SetRules replaces the rules, all or, when one is at fault, none. Rules that
// are as before keep their history and forecasts.
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
		next := was[r.Metric]
		if next == nil || !next.history.serves(r) {
			next = &ruleState{history: newHistory(r)}
		}
		next.Rule = r
		delete(was, r.Metric)
		m.rules = append(m.rules, next)
	}
	for metric := range was {
		m.metrics.forget(metric)
	}
	m.opts.Store.SetRules(rules)
	select {
	case m.changed <- struct{}{}:
	default: // Run has not taken the last change yet and will see this one too.
	}
	return nil
}

// Ready returns nil once every rule has had a tick whose query succeeded, with
// or without data; else an error that names those that had none. It stays nil
// from then on: a rule that is added later must not take away the others.
func (m *Manager) Ready() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var pending []string
	for _, r := range m.rules {
		if r.done.IsZero() {
			pending = append(pending, r.Metric)
		}
	}
	m.ready = m.ready || len(pending) == 0
	if m.ready {
		return nil
	}
	return fmt.Errorf("no successful query so far for %s", strings.Join(pending, ", "))
}

// Run ticks at every step until ctx is done, then waits for the ticks under way,
// which end with it. A tick that fails is logged and tried again at the next; a
// rule whose tick takes long does not keep the others waiting.
func (m *Manager) Run(ctx context.Context) error {
	var ticks sync.WaitGroup
	defer ticks.Wait()
	for {
		ticks.Go(func() {
			if err := m.Tick(ctx, time.Now()); err != nil && ctx.Err() == nil {
				m.opts.Logger.Warn("Tick failed; older forecasts stay until they expire", "err", err)
			}
		})
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
	step := MaxStep
	for _, r := range m.rules {
		step = min(step, r.Step)
	}
	return Align(now, step).Add(step).Sub(now)
}

// job is one tick of one rule: the rule as it was at the start, and the places
// where it tells that its history is refreshed and waits for its companion's.
type job struct {
	Rule
	state     *ruleState
	refreshed chan struct{}
	with      *history
	awaited   <-chan struct{} // nil when the companion is not refreshed now
}

// Tick queries, predicts and stores every rule that has a new grid point at
// now, or whose last tick failed, unless a tick of it is still under way. Rules
// are independent of each other; the forecasts of one that fails stay in the
// store until they expire. The error joins those of all rules.
func (m *Manager) Tick(ctx context.Context, now time.Time) error {
	m.reportSilence(now)
	jobs := m.begin(now)
	errs := make([]error, len(jobs))
	var wg sync.WaitGroup
	for i, j := range jobs {
		wg.Go(func() {
			err := m.tick(ctx, j, now)
			m.finish(j, err, now)
			// Without data it is scaled to zero or not scraped yet: nothing to forecast.
			if err != nil && !errors.Is(err, ErrNoData) {
				errs[i] = fmt.Errorf("%s: %w", j.Metric, err)
			}
		})
	}
	wg.Wait()
	m.reportSilence(now)
	return errors.Join(errs...)
}

// begin marks the rules that are due as busy and returns a job for each.
func (m *Manager) begin(now time.Time) []job {
	m.mu.Lock()
	defer m.mu.Unlock()
	var jobs []job
	refreshed := map[string]chan struct{}{}
	histories := map[string]*history{}
	for _, r := range m.rules {
		histories[r.Metric] = r.history
		if point := Align(now, r.Step); r.busy || r.done.Equal(point) {
			continue // A clock that went back makes a rule due as one that went on does.
		}
		r.busy = true
		refreshed[r.Metric] = make(chan struct{})
		jobs = append(jobs, job{Rule: r.Rule, state: r, refreshed: refreshed[r.Metric]})
	}
	for i, j := range jobs {
		jobs[i].with, jobs[i].awaited = histories[j.With], refreshed[j.With]
	}
	return jobs
}

// tick refreshes the history of a rule and forecasts it.
func (m *Manager) tick(ctx context.Context, j job, now time.Time) error {
	started := time.Now()
	err := m.refresh(ctx, j, now)
	close(j.refreshed)
	m.metrics.duration.WithLabelValues(j.Metric, "query").Observe(time.Since(started).Seconds())
	if err != nil {
		return fmt.Errorf("query history: %w", err)
	}
	if j.awaited != nil {
		patience := time.NewTimer(j.Step / companionWait)
		defer patience.Stop()
		select {
		case <-j.awaited:
		case <-patience.C: // Its newest samples are missing this time.
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return m.predict(ctx, j, now)
}

func (m *Manager) refresh(ctx context.Context, j job, now time.Time) error {
	limit := j.Step
	if j.state.history.missing(Align(now, j.Step)).Len() > fillSteps {
		limit = fillTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return j.state.history.refresh(ctx, m.opts.Query, now)
}

// predict forecasts every fresh series of a rule and puts the forecasts in the
// store.
func (m *Manager) predict(ctx context.Context, j job, now time.Time) error {
	started := time.Now()
	windows := j.state.history.windows(j.with, now, j.MaxAge)
	forecasts := make([]Forecast, 0, len(windows))
	for batch := range slices.Chunk(windows, predictBatch) {
		fs, err := m.forecast(ctx, j.Metric, batch)
		if err != nil {
			return fmt.Errorf("predict: %w", err)
		}
		forecasts = append(forecasts, fs...)
	}
	m.metrics.duration.WithLabelValues(j.Metric, "predict").Observe(time.Since(started).Seconds())
	m.put(j, forecasts)
	return nil
}

// put stores the forecasts unless a change of rules has replaced the rule
// meanwhile.
func (m *Manager) put(j job, fs []Forecast) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !slices.Contains(m.rules, j.state) {
		return
	}
	m.opts.Store.Put(j.Metric, fs)
	m.countSources(j.Metric, fs)
}

// finish notes the outcome of a job.
func (m *Manager) finish(j job, err error, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	j.state.busy = false
	if !slices.Contains(m.rules, j.state) {
		if !slices.ContainsFunc(m.rules, func(r *ruleState) bool { return r.Metric == j.Metric }) {
			m.metrics.forget(j.Metric) // What the tick counted after its rule was gone.
		}
		return
	}
	outcome := outcomeOK
	switch {
	case errors.Is(err, ErrNoData):
		outcome = outcomeNoData
	case err != nil:
		outcome = outcomeError
	}
	m.metrics.ticks.WithLabelValues(j.Metric, outcome).Inc()
	m.metrics.series.WithLabelValues(j.Metric).Set(float64(len(j.state.history.series)))
	if outcome == outcomeError {
		return
	}
	j.state.done = Align(now, j.Step)
	m.metrics.lastSuccess.WithLabelValues(j.Metric).Set(float64(now.UnixMilli()) / 1000)
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
		m.metrics.refused.WithLabelValues(metric, m.opts.Model.Version()).Add(float64(len(long)))
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
			m.opts.Logger.Error("Forecast refused; falling back", "metric", metric, "model", model.Version(), "series", fs[k].Labels)
			continue
		}
		out[i] = fs[k]
	}
	return nil
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

// reportSilence logs of every rule when nothing of it is fresh any more, and
// when it is again. A rule that never had a forecast is not silent but new.
func (m *Manager) reportSilence(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.rules {
		snap, _ := m.opts.Store.Snapshot(r.Metric)
		fresh := slices.ContainsFunc(snap.Forecasts, func(f Forecast) bool { return r.Fresh(f, now) })
		switch {
		case r.served && !fresh:
			r.silent = true
			m.metrics.source.DeletePartialMatch(prometheus.Labels{"metric": r.Metric})
			m.opts.Logger.Warn("No fresh forecast; the metric is answered with an empty list", "metric", r.Metric, "max_age", r.MaxAge)
		case r.silent && fresh:
			r.silent = false
			m.opts.Logger.Info("Forecasts are fresh again", "metric", r.Metric)
		}
		r.served = fresh
	}
}
