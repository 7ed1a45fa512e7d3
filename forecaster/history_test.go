package forecaster

import (
	"context"
	"errors"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/common/model"
)

// load is a fake Prometheus: the value of every workload as a function of the
// minutes since t0, NaN where it has none. It notes the ranges asked for.
type load struct {
	mu        sync.Mutex
	asked     []Range
	workloads map[model.LabelValue]func(minute int) float64
	err       error
}

func (l *load) query(_ context.Context, _ string, r Range) ([]Series, error) {
	l.mu.Lock()
	l.asked = append(l.asked, r)
	l.mu.Unlock()
	if l.err != nil {
		return nil, l.err
	}
	var out []Series
	for name, value := range l.workloads {
		s := Series{Labels: model.Metric{"workload": name}, Start: r.Start, Step: r.Step}
		seen := false
		for i := range r.Len() {
			v := value(int(s.Time(i).Sub(t0) / time.Minute))
			seen = seen || observed(v)
			s.Values = append(s.Values, v)
		}
		if seen {
			out = append(out, s)
		}
	}
	if len(out) == 0 {
		return nil, ErrNoData
	}
	return out, nil
}

func minutes(m int) float64 { return float64(m) }

func at(minute int) time.Time { return t0.Add(time.Duration(minute) * time.Minute) }

func testRule() Rule {
	return Rule{Metric: "load", Expr: "load", Lookback: 30 * time.Minute}.WithDefaults()
}

func refresh(t *testing.T, h *history, l *load, minute int) {
	t.Helper()
	if err := h.refresh(t.Context(), l.query, at(minute).Add(20*time.Second)); err != nil {
		t.Fatal(err)
	}
}

func (h *history) values(t *testing.T, workload model.LabelValue) []float64 {
	t.Helper()
	s := h.series[model.Metric{"workload": workload}.Fingerprint()]
	if s == nil {
		t.Fatalf("no series of %s", workload)
	}
	return s.Values
}

func TestRefreshAsksOnlyForTheNewestSteps(t *testing.T) {
	l, h := &load{workloads: map[model.LabelValue]func(int) float64{"a": minutes}}, newHistory(testRule())
	for _, minute := range []int{100, 101, 104, 300} {
		refresh(t, h, l, minute)
	}
	want := []Range{
		{at(70), at(100), time.Minute},  // all of the lookback at first
		{at(95), at(101), time.Minute},  // the newest step, and five again
		{at(96), at(104), time.Minute},  // three new steps after two lost ticks
		{at(270), at(300), time.Minute}, // all again after a long outage
	}
	if diff := cmp.Diff(want, l.asked); diff != "" {
		t.Errorf("ranges asked for (-want +got):\n%s", diff)
	}
	got := h.values(t, "a")
	if len(got) != 31 || got[0] != 270 || got[30] != 300 {
		t.Errorf("history is %d values from %v to %v; want 31 from 270 to 300", len(got), got[0], got[30])
	}
}

func TestRefreshByStepsEqualsOneFill(t *testing.T) {
	holes := func(m int) float64 {
		if m%7 == 3 {
			return nan
		}
		return float64(m * m)
	}
	l := &load{workloads: map[model.LabelValue]func(int) float64{"a": holes}}
	stepwise, whole := newHistory(testRule()), newHistory(testRule())
	for minute := 50; minute <= 100; minute += 1 + minute%3 {
		refresh(t, stepwise, l, minute)
	}
	refresh(t, stepwise, l, 100)
	refresh(t, whole, l, 100)
	if diff := cmp.Diff(whole.values(t, "a"), stepwise.values(t, "a"), cmpopts.EquateNaNs()); diff != "" {
		t.Errorf("histories differ (-one fill +by steps):\n%s", diff)
	}
}

func TestRefreshTakesLateSamplesAndKeepsSeenOnes(t *testing.T) {
	late := nan
	seen := 8.0
	l, h := &load{workloads: map[model.LabelValue]func(int) float64{"a": func(m int) float64 {
		return map[int]float64{98: late, 99: seen, 100: 10, 101: 11}[m]
	}}}, newHistory(testRule())
	refresh(t, h, l, 100)
	late, seen = 9, nan
	refresh(t, h, l, 101)
	if diff := cmp.Diff([]float64{9, 8, 10, 11}, h.values(t, "a")[27:]); diff != "" {
		t.Errorf("newest four (-want +got):\n%s", diff)
	}
}

func TestFailedRefreshChangesNothing(t *testing.T) {
	l, h := &load{workloads: map[model.LabelValue]func(int) float64{"a": minutes}}, newHistory(testRule())
	refresh(t, h, l, 100)
	l.err = errors.New("boom")
	if err := h.refresh(t.Context(), l.query, at(103)); !errors.Is(err, l.err) {
		t.Fatalf("error is %v; want %v", err, l.err)
	}
	if got := h.values(t, "a"); !h.end.Equal(at(100)) || got[30] != 100 {
		t.Errorf("history ends at %v with %v; want %v with 100", h.end, got[30], at(100))
	}
}

func TestRefreshReachesBackAsFarAsSamplesMayBeLate(t *testing.T) {
	rule := testRule()
	rule.MaxAge = 9 * time.Minute
	lag := 7
	newest := 0
	l, h := &load{workloads: map[model.LabelValue]func(int) float64{"a": func(m int) float64 {
		if m > newest-lag {
			return nan
		}
		return float64(m)
	}}}, newHistory(rule)
	for newest = 100; newest < 110; newest++ {
		refresh(t, h, l, newest)
	}
	if got := h.values(t, "a")[30-lag]; got != 102 {
		t.Errorf("the sample of minute 102, seven minutes late, is %v; want 102", got)
	}
}

func TestAClockThatWasAheadIsForgotten(t *testing.T) {
	l, h := &load{workloads: map[model.LabelValue]func(int) float64{"a": minutes}}, newHistory(testRule())
	refresh(t, h, l, 100)
	refresh(t, h, l, 5000)
	refresh(t, h, l, 101)
	if got := h.values(t, "a"); !h.end.Equal(at(101)) || got[0] != 71 || got[30] != 101 {
		t.Errorf("history goes from %v to %v at %v; want 71 to 101 at %v", got[0], got[30], h.end, at(101))
	}
}

func TestSilentSeriesLeaveTheHistory(t *testing.T) {
	gone := func(m int) float64 {
		if m > 100 {
			return nan
		}
		return 1
	}
	l, h := &load{workloads: map[model.LabelValue]func(int) float64{"a": minutes, "b": gone}}, newHistory(testRule())
	for minute := 100; minute <= 131; minute++ {
		refresh(t, h, l, minute)
		if b, held := h.series[model.Metric{"workload": "b"}.Fingerprint()], minute <= 130; (b != nil) != held {
			t.Fatalf("minute %d: series b held: %v; want %v", minute, b != nil, held)
		}
	}
	l.workloads["a"] = func(int) float64 { return nan }
	if err := h.refresh(t.Context(), l.query, at(132)); !errors.Is(err, ErrNoData) {
		t.Errorf("error is %v; want ErrNoData", err)
	}
}

func TestWindowsAreFreshAndOrderedAndPaired(t *testing.T) {
	stale := func(m int) float64 {
		if m > 94 {
			return nan
		}
		return 1
	}
	l := &load{workloads: map[model.LabelValue]func(int) float64{"b": minutes, "a": minutes, "old": stale}}
	memory := &load{workloads: map[model.LabelValue]func(int) float64{"b": func(m int) float64 { return -float64(m) }}}
	h, with := newHistory(testRule()), newHistory(testRule())
	refresh(t, h, l, 100)
	refresh(t, with, memory, 99)
	ws := h.windows(with, at(100), 5*time.Minute)
	if len(ws) != 2 || ws[0].Labels["workload"] != "a" || ws[1].Labels["workload"] != "b" {
		t.Fatalf("windows are of %v; want a and b, and not old, which is stale", ws)
	}
	if ws[0].With != nil {
		t.Errorf("a has the companion %v; want none", ws[0].With)
	}
	if diff := cmp.Diff([]float64{-98, -99, math.NaN()}, ws[1].With[28:], cmpopts.EquateNaNs()); diff != "" {
		t.Errorf("newest of b's companion (-want +got):\n%s", diff)
	}
}
