package prom

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/common/model"

	"github.com/kubeforecaster/kubeforecaster/forecaster"
)

// t0 is on every grid of the tests: a whole hour.
var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

var nan = math.NaN()

// minutes is the range of n grid points, a minute apart, from t0 on.
func minutes(n int) forecaster.Range {
	return forecaster.Range{Start: t0, End: t0.Add(time.Duration(n-1) * time.Minute), Step: time.Minute}
}

// at is a sample some time after t0.
func at(d time.Duration, v float64) model.SamplePair {
	return model.SamplePair{Timestamp: model.TimeFromUnixNano(t0.Add(d).UnixNano()), Value: model.SampleValue(v)}
}

func stream(labels model.Metric, values ...model.SamplePair) *model.SampleStream {
	return &model.SampleStream{Metric: labels, Values: values}
}

func TestSamplesOnTheGrid(t *testing.T) {
	ms, s, m := time.Millisecond, time.Second, time.Minute
	for name, row := range map[string]struct {
		samples []model.SamplePair
		want    []float64
	}{
		"samples on the grid stay where they are":      {[]model.SamplePair{at(0, 1), at(m, 2), at(2*m, 3), at(3*m, 4)}, []float64{1, 2, 3, 4}},
		"what never came is missing, not zero":         {[]model.SamplePair{at(m, 2), at(3*m, 4)}, []float64{nan, 2, nan, 4}},
		"a sample that is NaN is missing":              {[]model.SamplePair{at(0, 1), at(m, nan), at(2*m, 3)}, []float64{1, nan, 3, nan}},
		"a stale marker is missing":                    {[]model.SamplePair{at(0, 1), at(m, math.Float64frombits(0x7ff0000000000002))}, []float64{1, nan, nan, nan}},
		"infinities are missing":                       {[]model.SamplePair{at(0, math.Inf(1)), at(m, 2), at(2*m, math.Inf(-1))}, []float64{nan, 2, nan, nan}},
		"the largest number is a number":               {[]model.SamplePair{at(0, math.MaxFloat64), at(m, -math.MaxFloat64)}, []float64{math.MaxFloat64, -math.MaxFloat64, nan, nan}},
		"zero is a number":                             {[]model.SamplePair{at(0, 0)}, []float64{0, nan, nan, nan}},
		"a sample between points belongs to the next":  {[]model.SamplePair{at(20*s, 1), at(m+59*s, 2)}, []float64{nan, 1, 2, nan}},
		"a sample never moves back by seconds":         {[]model.SamplePair{at(m+2*s, 1)}, []float64{nan, nan, 1, nan}},
		"a sample late by milliseconds is on time":     {[]model.SamplePair{at(3*ms, 1), at(m+999*ms, 2), at(3*m+s, 4)}, []float64{1, 2, nan, 4}},
		"a sample early by milliseconds is on time":    {[]model.SamplePair{at(-3*ms, 1), at(m-3*ms, 2)}, []float64{1, 2, nan, nan}},
		"samples before and after the range are none":  {[]model.SamplePair{at(-m, 7), at(-2*s, 7), at(m, 2), at(3*m+2*s, 7), at(4*m, 7), at(1e6*time.Hour, 7)}, []float64{nan, 2, nan, nan}},
		"of samples of one time the last holds":        {[]model.SamplePair{at(m, 1), at(m, 2)}, []float64{nan, 2, nan, nan}},
		"of samples of one step the last holds":        {[]model.SamplePair{at(m+15*s, 1), at(m+30*s, 2), at(m+45*s, 3)}, []float64{nan, nan, 3, nan}},
		"a last sample that is missing hides the rest": {[]model.SamplePair{at(0, 1), at(m, 1), at(m, nan)}, []float64{1, nan, nan, nan}},
		"samples out of order find their places":       {[]model.SamplePair{at(3*m, 4), at(0, 1)}, []float64{1, nan, nan, 4}},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGrid(minutes(4), 10)
			if err := g.add(model.Matrix{stream(model.Metric{"pod": "a"}, row.samples...)}); err != nil {
				t.Fatal(err)
			}
			got, err := g.series()
			if err != nil {
				t.Fatal(err)
			}
			want := []forecaster.Series{{Labels: model.Metric{"pod": "a"}, Start: t0, Step: time.Minute, Values: row.want}}
			if diff := cmp.Diff(want, got, cmpopts.EquateNaNs()); diff != "" {
				t.Errorf("series (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRoundingIsWithinATwentiethOfAShortStep(t *testing.T) {
	g := newGrid(forecaster.Range{Start: t0, End: t0.Add(20 * time.Second), Step: 10 * time.Second}, 10)
	late := 500 * time.Millisecond
	if err := g.add(model.Matrix{stream(nil, at(late, 1), at(10*time.Second+late+time.Millisecond, 2))}); err != nil {
		t.Fatal(err)
	}
	got, err := g.series()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]float64{1, nan, 2}, got[0].Values, cmpopts.EquateNaNs()); diff != "" {
		t.Errorf("values (-want +got):\n%s", diff)
	}
}

func TestSeriesAreJoinedAndOrderedByLabels(t *testing.T) {
	g := newGrid(minutes(4), 10)
	for _, m := range []model.Matrix{
		{
			stream(model.Metric{"__name__": "x", "pod": "p-10"}, at(0, 1)),
			stream(model.Metric{"__name__": "x", "pod": "p-1"}, at(0, 2), at(time.Minute, 3)),
			stream(model.Metric{"__name__": "x", "pod": "none"}, at(0, nan)),
		},
		{
			stream(model.Metric{"__name__": "x", "pod": "p-1"}, at(2*time.Minute, 4)),
			stream(model.Metric{"__name__": "x"}, at(3*time.Minute, 5)),
			stream(model.Metric{"__name__": "x", "pod": "p-1", "a": "z"}, at(3*time.Minute, 6)),
		},
	} {
		if err := g.add(m); err != nil {
			t.Fatal(err)
		}
	}
	got, err := g.series()
	if err != nil {
		t.Fatal(err)
	}
	series := func(labels model.Metric, values ...float64) forecaster.Series {
		return forecaster.Series{Labels: labels, Start: t0, Step: time.Minute, Values: values}
	}
	want := []forecaster.Series{
		series(model.Metric{}, nan, nan, nan, 5),
		series(model.Metric{"pod": "p-1", "a": "z"}, nan, nan, nan, 6),
		series(model.Metric{"pod": "p-1"}, 2, 3, 4, nan),
		series(model.Metric{"pod": "p-10"}, 1, nan, nan, nan),
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateNaNs()); diff != "" {
		t.Errorf("series (-want +got):\n%s", diff)
	}
}

func TestSeriesThatCollapseAreAnError(t *testing.T) {
	for name, row := range map[string][]model.Matrix{
		"two metrics of one label set in one answer":  {{stream(model.Metric{"__name__": "a", "pod": "p"}), stream(model.Metric{"__name__": "b", "pod": "p"})}},
		"two metrics of one label set in two answers": {{stream(model.Metric{"__name__": "a", "pod": "p"})}, {stream(model.Metric{"__name__": "b", "pod": "p"})}},
		"one series twice in one answer":              {{stream(model.Metric{"pod": "p"}), stream(model.Metric{"pod": "p"})}},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGrid(minutes(4), 10)
			var err error
			for _, m := range row {
				err = errors.Join(err, g.add(m))
			}
			if !errors.Is(err, ErrBadQuery) || !strings.Contains(err.Error(), `{pod="p"}`) {
				t.Errorf("error = %v; want ErrBadQuery that names the labels", err)
			}
		})
	}
}

func TestLabelSetsDoNotMix(t *testing.T) {
	sets := []model.Metric{
		{}, {"a": ""}, {"a": "b"}, {"a": "bc"}, {"ab": "c"}, {"a": "b\x00c"}, {"a": "b", "c": ""}, {"a": "b\x00c\x00"}, {"a": "\xff"},
	}
	seen := map[string]model.Metric{}
	for _, s := range sets {
		if was, ok := seen[labelsKey(s)]; ok {
			t.Errorf("%q and %q have one key", was, s)
		}
		seen[labelsKey(s)] = s
	}
}

func TestHistogramsAreSkippedAndCounted(t *testing.T) {
	g := newGrid(minutes(4), 10)
	only := &model.SampleStream{Metric: model.Metric{"pod": "h"}, Histograms: make([]model.SampleHistogramPair, 3)}
	if err := g.add(model.Matrix{only}); err != nil {
		t.Fatal(err)
	}
	if _, err := g.series(); !errors.Is(err, forecaster.ErrNoData) || !strings.Contains(err.Error(), "native histograms") {
		t.Errorf("histograms alone: %v; want ErrNoData that says why", err)
	}
	mixed := stream(model.Metric{"pod": "m"}, at(0, 1))
	mixed.Histograms = make([]model.SampleHistogramPair, 2)
	if err := g.add(model.Matrix{mixed}); err != nil {
		t.Fatal(err)
	}
	got, err := g.series()
	if err != nil || len(got) != 1 || g.histograms != 5 {
		t.Errorf("got %v, %v, %d histograms; want the one series with a number, 5 histograms", got, err, g.histograms)
	}
}

func TestNoNumbersAreNoData(t *testing.T) {
	for name, row := range map[string]struct {
		matrix model.Matrix
		want   string
	}{
		"no series":                 {nil, "no data: no series"},
		"a series without a sample": {model.Matrix{stream(model.Metric{"pod": "a"})}, "no data: 1 series, but not one number"},
		"a series of NaN":           {model.Matrix{stream(model.Metric{"pod": "a"}, at(0, nan))}, "not one number"},
		"a series out of range":     {model.Matrix{stream(model.Metric{"pod": "a"}, at(-time.Hour, 1))}, "not one number"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGrid(minutes(4), 10)
			if err := g.add(row.matrix); err != nil {
				t.Fatal(err)
			}
			got, err := g.series()
			if !errors.Is(err, forecaster.ErrNoData) || !strings.Contains(err.Error(), row.want) {
				t.Errorf("series = %v, %v; want %q", got, err, row.want)
			}
		})
	}
}

func TestLargeAnswersAreRefused(t *testing.T) {
	var m model.Matrix
	for i := range 3 {
		m = append(m, stream(model.Metric{"pod": model.LabelValue(strconv.Itoa(i))}, at(0, 1)))
	}
	if err := newGrid(minutes(4), 2).add(m); !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), "more than 2 series") {
		t.Errorf("3 series where 2 are allowed: %v", err)
	}
	g := newGrid(minutes(4), 2)
	g.points = maxCells/2 + 1
	g.rows["other"] = &row{}
	if err := g.add(m[:1]); !errors.Is(err, ErrTooLarge) {
		t.Errorf("more values than memory is for: %v", err)
	}
}

// BenchmarkGrid is a tick of a large cluster: 10,000 series of 10 points.
func BenchmarkGrid(b *testing.B) {
	const series, points = 10_000, 10
	m := make(model.Matrix, series)
	for i := range m {
		m[i] = stream(model.Metric{
			"namespace": model.LabelValue("team-" + strconv.Itoa(i%50)), "workload": model.LabelValue("service-" + strconv.Itoa(i)), "workload_kind": "Deployment",
		})
		for j := range points {
			m[i].Values = append(m[i].Values, at(time.Duration(j)*time.Minute, float64(i*j)))
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		g := newGrid(minutes(points), series)
		if err := g.add(m); err != nil {
			b.Fatal(err)
		}
		if ss, err := g.series(); err != nil || len(ss) != series {
			b.Fatal(len(ss), err)
		}
	}
}
