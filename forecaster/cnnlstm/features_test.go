package cnnlstm

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/kubeforecaster/kubeforecaster/forecaster"
)

var (
	nan = math.NaN()
	t0  = time.Date(2026, 3, 2, 6, 0, 0, 0, time.UTC) // a quarter of the day
)

// windowOf is a window that ends at t0 with the given values.
func windowOf(step time.Duration, values, with []float64) forecaster.Window {
	w := forecaster.Window{Origin: t0, Step: step, Values: values, With: with}
	for _, v := range values {
		if !math.IsNaN(v) {
			w.Observed++
		}
	}
	return w
}

// encoded returns the channels of the newest n steps and the context.
func encoded(w forecaster.Window, n int) (newest [][]float32, context []float32, s scale) {
	x, context := make([]float32, steps*channels), make([]float32, contextLen)
	s = encode(w, x, context)
	for i := steps - n; i < steps; i++ {
		newest = append(newest, x[i*channels:(i+1)*channels])
	}
	return newest, context, s
}

func TestEncodeNormalisesByLastValueAndSpread(t *testing.T) {
	newest, _, s := encoded(windowOf(time.Minute, []float64{1, 3, 1, 3}, []float64{10, 10, 30, nan}), 5)
	// The standard deviation is 1, the mean level 2, the largest value 3.
	if want := 1 + 0.02 + 3e-6; math.Abs(s.spread-want) > 1e-12 || s.last != 3 {
		t.Fatalf("scale is %+v; want last 3 and spread %v", s, want)
	}
	a := float32(-2 / s.spread)
	with := scaleOf([]float64{10, 10, 30, 30})
	b := float32(-20 / with.spread)
	want := [][]float32{
		{0, 0, 0, 0, 0}, // before the first sample
		{a, 0, 1, b, 1},
		{0, -a, 1, b, 1},
		{a, a, 1, 0, 1},
		{0, -a, 1, 0, 0}, // the companion is missing and repeats the last
	}
	if diff := cmp.Diff(want, newest, cmpopts.EquateApprox(0, 1e-6)); diff != "" {
		t.Errorf("channels differ (-want +got):\n%s", diff)
	}
}

func TestEncodeMarksMissingSamples(t *testing.T) {
	newest, _, s := encoded(windowOf(time.Minute, []float64{nan, 5, nan, 7}, nil), 4)
	a := float32(-2 / s.spread)
	want := [][]float32{{0, 0, 0, 0, 0}, {a, 0, 1, 0, 0}, {a, 0, 0, 0, 0}, {0, -a, 1, 0, 0}}
	if diff := cmp.Diff(want, newest, cmpopts.EquateApprox(0, 1e-6)); diff != "" {
		t.Errorf("channels differ (-want +got):\n%s", diff)
	}
}

func TestEncodeClipsSpikes(t *testing.T) {
	values := make([]float64, steps)
	values[10] = 1e9
	values[steps-1] = 1
	newest, _, _ := encoded(windowOf(time.Minute, values, nil), steps)
	if got := newest[10][channelValue]; got <= 1 || got > clip {
		t.Errorf("a spike is %v; want it within the clip", got)
	}
	flat := []float64{1, 1, 1, 1, 1}
	w := windowOf(time.Minute, append(flat, 1.000001), nil)
	w.Values = append(make([]float64, 0, 2000), w.Values...)
	if s := scaleOf(w.Values); s.spread < 0.01 || s.spread > 0.0101 {
		t.Errorf("the spread of a flat series is %v; want a hundredth of its level", s.spread)
	}
}

func TestScaleIsFiniteForEverySeries(t *testing.T) {
	for name, values := range map[string][]float64{
		"zero": {0, 0, 0}, "smallest": {5e-324, 0, 5e-324}, "largest": {math.MaxFloat64, -math.MaxFloat64, math.MaxFloat64},
		"one": {7}, "tiny": {1e-300, 2e-300},
	} {
		s := scaleOf(values)
		if !(s.spread > 0) || math.IsInf(s.spread, 0) {
			t.Errorf("%s: spread is %v", name, s.spread)
		}
		for _, v := range values {
			if z := s.norm(v); !(z >= -clip && z <= clip) {
				t.Errorf("%s: %v normalised is %v", name, v, z)
			}
		}
		for _, y := range []float32{-1e30, -1, 0, 1, 1e30, float32(math.Inf(1))} {
			if v := s.unit(y); math.IsNaN(v) || math.IsInf(v, 0) {
				t.Errorf("%s: %v stands for %v", name, y, v)
			}
		}
	}
}

// dayRamp is a window of the given number of days at 5 minutes whose values are
// their own position, counted back from the origin.
func dayRamp(days int) forecaster.Window {
	values := make([]float64, days*288+before+1)
	for i := range values {
		values[i] = float64(i - len(values) + 1)
	}
	return windowOf(5*time.Minute, values, nil)
}

func TestEncodeReadsYesterdayAndLastWeekAroundTheTargets(t *testing.T) {
	_, context, s := encoded(dayRamp(7), 0)
	if context[pastWidth] != 1 || context[2*pastWidth+1] != 1 {
		t.Fatalf("flags are %v and %v; want both", context[pastWidth], context[2*pastWidth+1])
	}
	for i := range pastWidth {
		position := float64(i - before)
		if got, want := context[i], s.norm(position-288)/3; math.Abs(float64(got-want)) > 1e-6 {
			t.Errorf("yesterday at %v is %v; want %v", position, got, want)
		}
		if got, want := context[pastWidth+1+i], s.norm(position-7*288)/3; math.Abs(float64(got-want)) > 1e-6 {
			t.Errorf("last week at %v is %v; want %v", position, got, want)
		}
	}
}

func TestEncodeLeavesOutAPastThatIsNotThere(t *testing.T) {
	for name, w := range map[string]forecaster.Window{
		"short history":        dayRamp(0),
		"a step above the day": windowOf(48*time.Hour, dayRamp(1).Values, nil),
	} {
		_, context, _ := encoded(w, 0)
		if diff := cmp.Diff(make([]float32, 2*(pastWidth+1)), context[:2*(pastWidth+1)]); diff != "" {
			t.Errorf("%s: context differs (-want +got):\n%s", name, diff)
		}
	}
	_, context, _ := encoded(dayRamp(1), 0)
	if context[pastWidth] != 1 || context[2*pastWidth+1] != 0 {
		t.Errorf("flags of a day of history are %v and %v; want yesterday alone", context[pastWidth], context[2*pastWidth+1])
	}
	w := dayRamp(1)
	for i := range 7 {
		w.Values[i+2] = nan
	}
	_, context, s := encoded(w, 0)
	if context[pastWidth] != 1 || context[8] != s.norm(-292)/3 {
		t.Errorf("a gap yesterday is filled with %v; want the sample before it, %v", context[8], s.norm(-292)/3)
	}
	for i := range 6 {
		w.Values[i+9] = nan
	}
	if _, context, _ = encoded(w, 0); context[pastWidth] != 0 {
		t.Error("yesterday counts as known with 5 of 18 samples")
	}
}

func TestEncodeTellsTheSetting(t *testing.T) {
	_, context, s := encoded(windowOf(5*time.Minute, []float64{1, 3, 1, 3}, nil), 0)
	want := []float32{1, 0, float32(math.Log(s.spread / (3 + s.spread))), float32(math.Log(300) - 5)}
	if diff := cmp.Diff(want, context[2*(pastWidth+1):], cmpopts.EquateApprox(0, 1e-6)); diff != "" {
		t.Errorf("setting differs (-want +got):\n%s", diff)
	}
}

func TestExpIsGoodTo24Bits(t *testing.T) {
	for x := float32(-87); x <= 87; x += 0.0137 {
		want := math.Exp(float64(x))
		if got := float64(exp32(x)); math.Abs(got/want-1) > 2e-7 {
			t.Fatalf("exp32(%v) = %v; want %v", x, got, want)
		}
	}
	for _, x := range []float32{-1e30, 1e30, float32(math.Inf(1)), float32(math.Inf(-1))} {
		if got := exp32(x); !(got > 0) || math.IsInf(float64(got), 0) {
			t.Errorf("exp32(%v) = %v; want a positive number", x, got)
		}
		if got := sigmoid(x); !(got >= 0 && got <= 1) {
			t.Errorf("sigmoid(%v) = %v", x, got)
		}
		if got := tanh(x); !(got >= -1 && got <= 1) {
			t.Errorf("tanh(%v) = %v", x, got)
		}
	}
	if got := softplus(1000); got != 1000 {
		t.Errorf("softplus(1000) = %v", got)
	}
}
