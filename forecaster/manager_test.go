package forecaster

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/model"
)

// network stands in for one: it needs three samples and forecasts what edit
// makes of persistence.
type network struct {
	Persistence
	err  error
	edit func(ws []Window, fs []Forecast) []Forecast
}

func (network) Version() string { return "network-1" }

func (n network) Shape() Shape {
	s := n.Persistence.Shape()
	s.MinSteps = 3
	return s
}

func (n network) Predict(ctx context.Context, ws []Window) ([]Forecast, error) {
	fs, err := n.Persistence.Predict(ctx, ws)
	if n.err != nil || err != nil {
		return nil, errors.Join(n.err, err)
	}
	for i := range fs {
		fs[i].Model = n.Version()
	}
	if n.edit != nil {
		fs = n.edit(ws, fs)
	}
	return fs, nil
}

type bench struct {
	*Manager
	load  *load
	store *Store
	log   *bytes.Buffer
	reg   *prometheus.Registry
}

func newBench(t *testing.T, m Model, rules ...Rule) bench {
	t.Helper()
	b := bench{load: &load{workloads: map[model.LabelValue]func(int) float64{"a": minutes}}, store: &Store{}, log: &bytes.Buffer{}, reg: prometheus.NewRegistry()}
	if len(rules) == 0 {
		rules = []Rule{testRule()}
	}
	var err error
	b.Manager, err = NewManager(ManagerOptions{
		Rules: rules, Query: b.load.query, Model: m, Store: b.store,
		Logger: slog.New(slog.NewTextHandler(b.log, nil)), Registerer: b.reg,
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// served lists what the store serves at the given minute, as workload=value.
func (b bench) served(minute int) map[string]float64 {
	out := map[string]float64{}
	snap, _ := b.store.Snapshot("load")
	for _, f := range snap.Forecasts {
		if v, ok := snap.Rule.Value(f, snap.Rule.DefaultView(), at(minute)); ok {
			out[string(f.Labels["workload"])] = v
		}
	}
	return out
}

func (b bench) tick(t *testing.T, minute int) {
	t.Helper()
	if err := b.Tick(t.Context(), at(minute)); err != nil {
		t.Fatal(err)
	}
}

func TestTickStoresAForecastOfEverySeries(t *testing.T) {
	b := newBench(t, network{})
	b.load.workloads["b"] = func(int) float64 { return 7 }
	b.tick(t, 100)
	// Minutes rise by one a step, so persistence errs by as many steps.
	if diff := cmp.Diff(map[string]float64{"a": 105, "b": 7}, b.served(100)); diff != "" {
		t.Errorf("served (-want +got):\n%s", diff)
	}
	b.tick(t, 101)
	if diff := cmp.Diff(map[string]float64{"a": 106, "b": 7}, b.served(101)); diff != "" {
		t.Errorf("served a minute later (-want +got):\n%s", diff)
	}
}

func TestTickDoesEachGridPointOnce(t *testing.T) {
	hourly := testRule()
	hourly.Metric, hourly.Step, hourly.Horizon, hourly.Lead, hourly.MaxAge = "slow", 5*time.Minute, time.Hour, 5*time.Minute, 10*time.Minute
	b := newBench(t, network{}, testRule(), hourly)
	for minute := 100; minute < 110; minute++ {
		b.tick(t, minute)
		b.tick(t, minute) // nothing new
	}
	by := map[time.Duration]int{}
	for _, r := range b.load.asked {
		by[r.Step]++
	}
	if diff := cmp.Diff(map[time.Duration]int{time.Minute: 10, 5 * time.Minute: 2}, by); diff != "" {
		t.Errorf("queries by step (-want +got):\n%s", diff)
	}
}

func TestShortHistoryIsForecastByTheFallback(t *testing.T) {
	b := newBench(t, network{})
	b.load.workloads["new"] = func(m int) float64 {
		if m < 99 {
			return nan
		}
		return 5
	}
	b.tick(t, 100)
	got := map[string]string{}
	snap, _ := b.store.Snapshot("load")
	for _, f := range snap.Forecasts {
		got[string(f.Labels["workload"])] = f.Model
	}
	if diff := cmp.Diff(map[string]string{"a": "network-1", "new": "persistence"}, got); diff != "" {
		t.Errorf("models (-want +got):\n%s", diff)
	}
	want := `# HELP kubeforecaster_forecast_source Series of a rule by the model that made their newest forecast.
# TYPE kubeforecaster_forecast_source gauge
kubeforecaster_forecast_source{metric="load",model="network-1"} 1
kubeforecaster_forecast_source{metric="load",model="persistence"} 1
`
	if err := testutil.GatherAndCompare(b.reg, strings.NewReader(want), "kubeforecaster_forecast_source"); err != nil {
		t.Error(err)
	}
}

func TestAModelThatFailsNeverSilencesTheMetric(t *testing.T) {
	for name, n := range map[string]network{
		"error":           {err: errors.New("out of memory")},
		"not a number":    {edit: func(_ []Window, fs []Forecast) []Forecast { fs[0].Quantiles[2][3] = math.NaN(); return fs }},
		"crossed":         {edit: func(_ []Window, fs []Forecast) []Forecast { fs[0].Quantiles[0][0] = 1e9; return fs }},
		"too few answers": {edit: func([]Window, []Forecast) []Forecast { return nil }},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, n)
			b.tick(t, 100)
			if diff := cmp.Diff(map[string]float64{"a": 105}, b.served(100)); diff != "" {
				t.Errorf("served (-want +got):\n%s", diff)
			}
			if snap, _ := b.store.Snapshot("load"); snap.Forecasts[0].Model != "persistence" {
				t.Errorf("forecast is by %s; want persistence", snap.Forecasts[0].Model)
			}
		})
	}
}

func TestForecastsOutliveAnOutageUntilMaxAge(t *testing.T) {
	b := newBench(t, network{})
	b.tick(t, 100)
	b.load.err = errors.New("connection refused")
	for minute := 101; minute <= 110; minute++ {
		if err := b.Tick(t.Context(), at(minute)); !errors.Is(err, b.load.err) {
			t.Fatalf("minute %d: error is %v; want %v", minute, err, b.load.err)
		}
		if got, want := len(b.served(minute)), map[bool]int{true: 1, false: 0}[minute <= 105]; got != want {
			t.Errorf("minute %d: %d series served; want %d", minute, got, want)
		}
	}
	if n := strings.Count(b.log.String(), "No fresh forecast"); n != 1 {
		t.Errorf("silence was logged %d times; want once:\n%s", n, b.log)
	}
	b.load.err = nil
	b.tick(t, 111)
	if diff := cmp.Diff(map[string]float64{"a": 116}, b.served(111)); diff != "" {
		t.Errorf("served after recovery (-want +got):\n%s", diff)
	}
	if !strings.Contains(b.log.String(), "Forecasts are fresh again") {
		t.Errorf("recovery was not logged:\n%s", b.log)
	}
	if got := testutil.ToFloat64(b.metrics.ticks.WithLabelValues("load", "error")); got != 10 {
		t.Errorf("%v failed ticks counted; want 10", got)
	}
}

func TestNoDataIsNeverZero(t *testing.T) {
	b := newBench(t, network{})
	b.tick(t, 100)
	b.load.workloads["a"] = func(int) float64 { return nan }
	b.tick(t, 101) // no error: an empty result is a fact, not a fault
	if diff := cmp.Diff(map[string]float64{"a": 106}, b.served(101)); diff != "" {
		t.Errorf("served while the forecast is fresh (-want +got):\n%s", diff)
	}
	b.tick(t, 106)
	if got := b.served(106); len(got) != 0 {
		t.Errorf("served %v of a series without data; want nothing", got)
	}
	if got := testutil.ToFloat64(b.metrics.ticks.WithLabelValues("load", "no_data")); got != 2 {
		t.Errorf("%v ticks without data counted; want 2", got)
	}
}

func TestTickPairsCompanions(t *testing.T) {
	var mu sync.Mutex
	seen := map[bool]int{}
	spy := network{edit: func(ws []Window, fs []Forecast) []Forecast {
		mu.Lock()
		defer mu.Unlock()
		for _, w := range ws {
			seen[w.With != nil]++
		}
		return fs
	}}
	cpu, memory := testRule(), testRule()
	memory.Metric, cpu.With = "memory", "memory"
	newBench(t, spy, cpu, memory).tick(t, 100)
	if diff := cmp.Diff(map[bool]int{true: 1, false: 1}, seen); diff != "" {
		t.Errorf("windows with a companion (-want +got):\n%s", diff)
	}
}

func TestReadyNamesWhatHasNotBeenQueried(t *testing.T) {
	b := newBench(t, network{})
	b.load.err = errors.New("refused")
	_ = b.Tick(t.Context(), at(100))
	if err := b.Ready(); err == nil || err.Error() != "no successful query so far for load" {
		t.Errorf("ready says %v; want that load has had no successful query", err)
	}
	b.load.err = nil
	b.tick(t, 101)
	if err := b.Ready(); err != nil {
		t.Errorf("ready says %v after a good tick", err)
	}
}

func TestSetRulesKeepsWhatStays(t *testing.T) {
	other := testRule()
	other.Metric, other.Expr = "other", "other"
	b := newBench(t, network{}, testRule(), other)
	b.tick(t, 100)
	b.load.asked = nil

	changed := testRule()
	changed.Level = 0.5
	if err := b.SetRules([]Rule{changed}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]float64{"a": 100}, b.served(100)); diff != "" {
		t.Errorf("served at the new level, before a tick (-want +got):\n%s", diff)
	}
	if _, known := b.store.Snapshot("other"); known {
		t.Error("a metric without a rule is still known")
	}
	b.tick(t, 101)
	if diff := cmp.Diff([]Range{{at(95), at(101), time.Minute}}, b.load.asked); diff != "" {
		t.Errorf("ranges asked for after the change (-want +got):\n%s", diff)
	}
	if err := b.SetRules([]Rule{changed, changed}); err == nil || len(b.store.Rules()) != 1 {
		t.Errorf("a bad set of rules gave the error %v and left %d rules; want a refusal that changes nothing", err, len(b.store.Rules()))
	}
}

func TestCheckRules(t *testing.T) {
	with := func(edit func(*Rule)) Rule {
		r := testRule()
		edit(&r)
		return r
	}
	for _, tt := range []struct {
		want  string
		rules []Rule
	}{
		{"no rule: want at least one", nil},
		{`rule "load": another rule makes this metric already`, []Rule{testRule(), testRule()}},
		{`rule "load": level: 2 is out of range`, []Rule{with(func(r *Rule) { r.Level = 2 })}},
		{`rule "load": with: want the metric of another rule on the step 1m0s, not "none"`, []Rule{with(func(r *Rule) { r.With = "none" })}},
	} {
		if err := CheckRules(tt.rules); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("error is %v; want one with %q", err, tt.want)
		}
	}
}

func TestManagerNeedsItsParts(t *testing.T) {
	if _, err := NewManager(ManagerOptions{Rules: []Rule{testRule()}}); err == nil {
		t.Error("a manager without a query, model and store was made")
	}
}

func TestRunTicksOnTheGridUntilTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(Align(time.Now(), time.Minute).Add(80 * time.Second)))
		b := newBench(t, network{})
		start := time.Now() // 20 seconds past a minute
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- b.Run(ctx) }()
		time.Sleep(3 * time.Minute)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run ended with %v", err)
		}
		var ends []time.Duration
		for _, r := range b.load.asked {
			ends = append(ends, r.End.Sub(start))
		}
		want := []time.Duration{-20 * time.Second, 40 * time.Second, 100 * time.Second, 160 * time.Second}
		if diff := cmp.Diff(want, ends); diff != "" {
			t.Errorf("queries up to, from the start (-want +got):\n%s", diff)
		}
	})
}

func TestRunTakesNewRulesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, network{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- b.Run(ctx) }()
		synctest.Wait()
		added := testRule()
		added.Metric, added.Expr = "added", "added"
		if err := b.SetRules([]Rule{testRule(), added}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if snap, _ := b.store.Snapshot("added"); len(snap.Forecasts) != 1 {
			t.Errorf("%d forecasts of the added rule; want 1 without waiting for the next step", len(snap.Forecasts))
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run ended with %v", err)
		}
	})
}

func TestHungQueryEndsWithTheStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, network{})
		b.tick(t, 100)
		b.opts.Query = func(ctx context.Context, _ string, _ Range) ([]Series, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		started := time.Now()
		if err := b.Tick(t.Context(), at(101)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error is %v; want a deadline", err)
		}
		if took := time.Since(started); took != time.Minute {
			t.Errorf("the tick took %s; want one step", took)
		}
	})
}

func TestASlowRuleKeepsNoOtherWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow, paired := testRule(), testRule()
		slow.Metric, slow.Expr = "slow", "slow"
		paired.Metric, paired.With = "paired", "slow"
		b := newBench(t, network{}, testRule(), slow, paired)
		start := Align(time.Now(), time.Minute)
		b.load.workloads["a"] = func(int) float64 { return 7 }
		b.opts.Query = func(ctx context.Context, expr string, r Range) ([]Series, error) {
			if expr == "slow" {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return b.load.query(ctx, expr, r)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- b.Run(ctx) }()
		time.Sleep(3*time.Minute + 30*time.Second)
		for _, metric := range []string{"load", "paired"} {
			snap, _ := b.store.Snapshot(metric)
			if len(snap.Forecasts) != 1 || snap.Forecasts[0].Origin.Before(start.Add(3*time.Minute)) {
				t.Errorf("%s has the forecasts %v; want one of the newest minute", metric, snap.Forecasts)
			}
		}
		reloaded := time.Now()
		if err := b.SetRules([]Rule{testRule()}); err != nil || time.Since(reloaded) != 0 {
			t.Errorf("a change of rules took %s: %v; want it not to wait for a query", time.Since(reloaded), err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run ended with %v", err)
		}
		if n := testutil.CollectAndCount(b.metrics.ticks); n != 1 {
			t.Errorf("ticks of %d rules are counted; want only those of the rule that is left", n)
		}
	})
}

func TestARuleThatIsReplacedWhileItTicksLeavesNothing(t *testing.T) {
	b := newBench(t, network{})
	moved := testRule()
	moved.Expr = "elsewhere"
	b.opts.Query = func(ctx context.Context, expr string, r Range) ([]Series, error) {
		if err := b.SetRules([]Rule{moved}); err != nil {
			t.Error(err)
		}
		return b.load.query(ctx, expr, r)
	}
	b.tick(t, 100)
	if got := b.served(100); len(got) != 0 {
		t.Errorf("the replaced expression is served under the new one's name: %v", got)
	}
}

func TestReadyOutlivesAnAddedRule(t *testing.T) {
	b := newBench(t, network{})
	b.tick(t, 100)
	if err := b.Ready(); err != nil {
		t.Fatal(err)
	}
	added := testRule()
	added.Metric, added.Expr = "added", "added"
	if err := b.SetRules([]Rule{testRule(), added}); err != nil {
		t.Fatal(err)
	}
	if err := b.Ready(); err != nil {
		t.Errorf("a rule that was added takes readiness from those at work: %v", err)
	}
}

func TestAFillMayTakeLongerThanAStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, network{})
		b.opts.Query = func(ctx context.Context, expr string, r Range) ([]Series, error) {
			select { // A server that needs four seconds a point.
			case <-time.After(time.Duration(r.Len()) * 4 * time.Second):
				return b.load.query(ctx, expr, r)
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		b.tick(t, 100)
		b.tick(t, 101)
		b.tick(t, 125) // after an outage
		if got := b.served(125); len(got) != 1 {
			t.Errorf("served %v after catching up; want a forecast", got)
		}
	})
}

func TestTicksGoOnAfterTheClockWasAhead(t *testing.T) {
	b := newBench(t, network{})
	b.tick(t, 100)
	b.tick(t, 5000)
	b.tick(t, 101)
	if diff := cmp.Diff(map[string]float64{"a": 106}, b.served(101)); diff != "" {
		t.Errorf("served (-want +got):\n%s", diff)
	}
}

func TestStoreServesWholeSnapshots(t *testing.T) {
	var s Store
	if _, known := s.Snapshot("load"); known || len(s.Rules()) != 0 {
		t.Error("an empty store knows a metric")
	}
	s.Put("load", []Forecast{hills()})
	if _, known := s.Snapshot("load"); known {
		t.Error("Put made an unknown metric known")
	}
	other := testRule()
	other.Metric = "another"
	s.SetRules([]Rule{testRule(), other})
	before, _ := s.Snapshot("load")
	s.Put("load", []Forecast{hills()})
	after, _ := s.Snapshot("load")
	if len(before.Forecasts) != 0 || len(after.Forecasts) != 1 {
		t.Errorf("snapshots hold %d and %d forecasts; want 0 and 1", len(before.Forecasts), len(after.Forecasts))
	}
	if rules := s.Rules(); rules[0].Metric != "another" || rules[1].Metric != "load" {
		t.Errorf("rules are %v; want them ordered by metric", rules)
	}
	moved := testRule()
	moved.Expr = "elsewhere"
	s.SetRules([]Rule{moved})
	if snap, _ := s.Snapshot("load"); len(snap.Forecasts) != 0 {
		t.Error("forecasts of another expression were kept")
	}
}
