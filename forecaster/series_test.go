package forecaster_test

import (
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/model"

	"github.com/kubeforecaster/kubeforecaster/forecaster"
)

var t0 = time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)

// series builds a series at a one-minute step from Prometheus' notation for
// test series: "1 2", "1x3" (four times 1), "1+2x3", "_" and "_x3" (missing),
// "stale", "Inf".
func series(t *testing.T, notation string) forecaster.Series {
	t.Helper()
	return forecaster.Series{Labels: model.Metric{"workload": "a"}, Start: t0, Step: time.Minute, Values: values(t, notation)}
}

var item = regexp.MustCompile(`^(-?[0-9.]+|_|stale|[+-]?Inf)(?:([+-][0-9.]+)?x([0-9]+))?$`)

func values(t *testing.T, notation string) []float64 {
	t.Helper()
	var out []float64
	for f := range strings.FieldsSeq(notation) {
		m := item.FindStringSubmatch(f)
		if m == nil {
			t.Fatalf("%q is no series notation", f)
		}
		v := math.NaN()
		if m[1] != "_" && m[1] != "stale" {
			v = number(m[1])
		}
		repeat := int(number(m[3]))
		if m[1] == "_" && m[3] != "" {
			repeat-- // "_x3" is three missing samples, "1x3" is four.
		}
		for range repeat + 1 {
			out = append(out, v)
			v += number(m[2])
		}
	}
	return out
}

func number(s string) float64 {
	v, _ := strconv.ParseFloat(s, 64) // "" is 0
	return v
}

func TestAlignIsOnMultiplesOfTheStepSinceTheEpoch(t *testing.T) {
	at := t0.Add(7*time.Minute + 13*time.Second + 5)
	if got, want := forecaster.Align(at, 5*time.Minute), t0.Add(5*time.Minute); !got.Equal(want) {
		t.Errorf("Align = %v, want %v", got, want)
	}
	if got := forecaster.Align(t0, 5*time.Minute); !got.Equal(t0) {
		t.Errorf("Align moved %v, a multiple, to %v", t0, got)
	}
	if got, want := forecaster.Align(time.Unix(-1, 0), time.Minute), time.Unix(-60, 0); !got.Equal(want) {
		t.Errorf("Align before the epoch = %v, want %v", got, want)
	}
}

func TestAlignedRangeLiesWithin(t *testing.T) {
	r := forecaster.Range{Start: t0.Add(time.Second), End: t0.Add(3*time.Minute + 59*time.Second), Step: time.Minute}.Align()
	want := forecaster.Range{Start: t0.Add(time.Minute), End: t0.Add(3 * time.Minute), Step: time.Minute}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Errorf("aligned (-want +got):\n%s", diff)
	}
	if r.Len() != 3 {
		t.Errorf("Len = %d, want 3", r.Len())
	}
	if got := (forecaster.Range{Start: t0.Add(1), End: t0.Add(2), Step: time.Minute}).Align().Len(); got != 0 {
		t.Errorf("a range between two grid points has Len %d, want 0", got)
	}
	if got, want := r.String(), "2026-03-02T00:01:00Z to 2026-03-02T00:03:00Z by 1m0s"; got != want {
		t.Errorf("String = %q, want %q", got, want)
	}
}
