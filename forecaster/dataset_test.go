package forecaster

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/common/model"
)

func readCSV(t *testing.T, text string) []History {
	t.Helper()
	hs, err := ReadCSV(t.Context(), strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return hs
}

func zipped(t *testing.T, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

const twoSeries = `series,timestamp_s,cpu,memory
a,600,1,10
b,0,5,
a,660,,11
b,300,6,
a,780,3,12
`

func TestReadCSVPutsSeriesOnTheirGrids(t *testing.T) {
	labels := func(metric, series model.LabelValue) model.Metric {
		return model.Metric{model.MetricNameLabel: metric, "series": series}
	}
	start := time.Unix(600, 0).UTC()
	cpu := Series{Labels: labels("cpu", "a"), Start: start, Step: time.Minute, Values: []float64{1, nan, nan, 3}}
	memory := Series{Labels: labels("memory", "a"), Start: start, Step: time.Minute, Values: []float64{10, 11, nan, 12}}
	want := []History{
		{Series: cpu, With: memory},
		{Series: memory, With: cpu},
		{Series: Series{Labels: labels("cpu", "b"), Start: time.Unix(0, 0).UTC(), Step: 5 * time.Minute, Values: []float64{5, 6}}},
	}
	for name, text := range map[string]string{"plain": twoSeries, "gzipped": string(zipped(t, twoSeries)), "with a byte order mark": "\ufeff" + twoSeries, "with the line ends of DOS": strings.ReplaceAll(twoSeries, "\n", "\r\n")} {
		if diff := cmp.Diff(want, readCSV(t, text), cmpopts.EquateNaNs()); diff != "" {
			t.Errorf("%s: histories differ (-want +got):\n%s", name, diff)
		}
	}
}

func TestReadCSVGrids(t *testing.T) {
	for name, tc := range map[string]struct {
		rows  string
		start int64
		step  time.Duration
		want  []float64
	}{
		"times off the step are moved back to a multiple": {"a,610,1\na,670,2\na,730,3\n", 600, time.Minute, []float64{1, 2, 3}},
		"jitter goes to the nearest point":                {"a,600,1\na,660,2\na,721,3\na,780,4\n", 600, time.Minute, []float64{1, 2, 3, 4}},
		"a gap is missing samples":                        {"a,600,1\na,660,2\na,720,3\na,900,6\n", 600, time.Minute, []float64{1, 2, 3, nan, nan, 6}},
		"of two rows at one point the later wins":         {"a,600,1\na,660,2\na,665,7\na,720,3\na,780,4\na,840,5\n", 600, time.Minute, []float64{1, 7, 3, 4, 5}},
		"a missing sample does not displace one":          {"a,600,1\na,660,2\na,665,\na,720,3\na,780,4\na,840,5\n", 600, time.Minute, []float64{1, 2, 3, 4, 5}},
		"negative samples are samples":                    {"a,600,-1\na,660,-2e-3\n", 600, time.Minute, []float64{-1, -0.002}},
	} {
		t.Run(name, func(t *testing.T) {
			hs := readCSV(t, "series,timestamp_s,requests\n"+tc.rows)
			want := Series{Labels: model.Metric{"__name__": "requests", "series": "a"}, Start: time.Unix(tc.start, 0).UTC(), Step: tc.step, Values: tc.want}
			if diff := cmp.Diff([]History{{Series: want}}, hs, cmpopts.EquateNaNs()); diff != "" {
				t.Errorf("histories differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReadCSVLeavesOutWhatHasNoStepOrSample(t *testing.T) {
	if hs := readCSV(t, "series,timestamp_s,cpu,memory\none,0,1,2\nempty,0,,\nempty,60,,\n"); len(hs) != 0 {
		t.Errorf("got %v; want nothing", hs)
	}
}

func TestReadCSVNamesLineAndFault(t *testing.T) {
	const header = "series,timestamp_s,cpu,memory\n"
	for name, tc := range map[string]struct{ text, want string }{
		"an empty file":               {"", `line 1: the header is ""; want series,timestamp_s and at least one of cpu, memory, requests`},
		"another header":              {"time,cpu\n1,2\n", `line 1: the header is "time,cpu"; want series,timestamp_s`},
		"no metric":                   {"series,timestamp_s\na,1\n", "at least one of cpu, memory, requests"},
		"an unknown metric":           {"series,timestamp_s,disk\n", `the header is "series,timestamp_s,disk"`},
		"a metric twice":              {"series,timestamp_s,cpu,cpu\n", `the header is "series,timestamp_s,cpu,cpu"`},
		"too few fields":              {header + "a,0,1,2\na,60,1\n", "line 3: wrong number of fields; want 4: series,timestamp_s,cpu,memory"},
		"too many fields":             {header + "a,0,1,2,3\n", "line 2: wrong number of fields; want 4"},
		"a word for a number":         {header + "a,0,1,2\na,60,many,2\n", `line 3: cpu "many" is no number; want one such as 0.25, or nothing where the sample is missing`},
		"NaN for a number":            {header + "a,0,1,NaN\n", `line 2: memory "NaN" is no number`},
		"an infinite number":          {header + "a,0,1,+Inf\n", `line 2: memory "+Inf" is no number`},
		"a number beyond 64 bits":     {header + "a,0,1e999,1\n", `line 2: cpu "1e999" is no number`},
		"a date for a time":           {header + "a,2026-01-01,1,2\n", `line 2: timestamp_s "2026-01-01" is out of range; want whole seconds since the Unix epoch`},
		"a time in milliseconds":      {header + "a,1770000000000,1,2\n", `line 2: timestamp_s "1770000000000" is out of range`},
		"a negative time":             {header + "a,-60,1,2\n", `timestamp_s "-60" is out of range`},
		"a time twice":                {header + "a,60,1,2\nb,60,1,2\na,60,1,2\n", `line 4: timestamp_s 60 of series "a" does not follow 60; want rising times within a series`},
		"a time that goes back":       {header + "a,60,1,2\na,0,1,2\n", `line 3: timestamp_s 0 of series "a" does not follow 60`},
		"no series":                   {header + ",0,1,2\n", "line 2: series is empty; want a name"},
		"a series that is no text":    {header + "\xff,0,1,2\n", "line 2: series \"\\xff\" is no UTF-8 text"},
		"an open quote":               {header + "a,0,1,2\n\"a,60,1,2\n", "line 3"},
		"a grid without end":          {header + "a,0,1,2\na,1,1,2\na,2,1,2\na,17000000000,1,2\n", `line 2: series "a" spans 17000000001 steps of 1 s; want at most 10000000`},
		"a line without end":          {header + strings.Repeat("a", 1<<17), "a line is longer than 65536 bytes"},
		"a broken gzip header":        {"\x1f\x8b nothing of the kind", "the gzip header is broken"},
		"a gzip stream that is short": {string(zipped(t, twoSeries))[:40], "the compressed data end early; the file was cut off"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ReadCSV(t.Context(), strings.NewReader(tc.text))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error is %v; want one that says %q", err, tc.want)
			}
		})
	}
}

func TestReadCSVStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var b strings.Builder
	b.WriteString("series,timestamp_s,cpu\n")
	for i := range 10_001 {
		fmt.Fprintf(&b, "a,%d,1\n", i)
	}
	if _, err := ReadCSV(ctx, strings.NewReader(b.String())); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v; want context.Canceled", err)
	}
}

func TestReadDatasetNamesSourcesAfterFiles(t *testing.T) {
	dir := t.TempDir()
	names := []string{filepath.Join(dir, "one.csv"), filepath.Join(dir, "two.csv.gz")}
	for i, data := range [][]byte{[]byte(twoSeries), zipped(t, twoSeries)} {
		if err := os.WriteFile(names[i], data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ds, err := ReadDataset(t.Context(), names...)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, h := range ds.Histories {
		got = append(got, h.Source+"/"+string(h.Series.Labels["series"])+"/"+string(h.Series.Labels["__name__"]))
	}
	want := []string{"one/a/cpu", "one/a/memory", "one/b/cpu", "two/a/cpu", "two/a/memory", "two/b/cpu"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("histories differ (-want +got):\n%s", diff)
	}
}

func TestReadDatasetNamesTheFile(t *testing.T) {
	dir := t.TempDir()
	broken, empty := filepath.Join(dir, "broken.csv"), filepath.Join(dir, "empty.csv")
	for name, text := range map[string]string{broken: "series,timestamp_s,cpu\na,0,x\n", empty: "series,timestamp_s,cpu\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ReadDataset(t.Context(), broken); err == nil || !strings.HasPrefix(err.Error(), broken+`: line 2: cpu "x" is no number`) {
		t.Errorf("error is %v; want one that starts with file and line", err)
	}
	if _, err := ReadDataset(t.Context(), empty); !errors.Is(err, ErrNoData) || !strings.Contains(err.Error(), empty) {
		t.Errorf("error is %v; want ErrNoData and the file", err)
	}
	if _, err := ReadDataset(t.Context(), filepath.Join(dir, "gone")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error is %v; want fs.ErrNotExist", err)
	}
}

// ramp is a history of n samples 0, 1, 2, ... with a companion ten times as
// large.
func ramp(n int) History {
	h := History{Series: Series{Start: time.Unix(0, 0).UTC(), Step: time.Minute}, With: Series{Start: time.Unix(0, 0).UTC(), Step: time.Minute}}
	for i := range n {
		h.Series.Values = append(h.Series.Values, float64(i))
		h.With.Values = append(h.With.Values, float64(10*i))
	}
	return h
}

func TestPartsShareNoTarget(t *testing.T) {
	h, ds := ramp(1000), Dataset{}
	lo, hi := ds.Train(h)
	if lo != 0 || hi != 688 {
		t.Errorf("training origins are %d to %d; want 0 to 688", lo, hi)
	}
	if last := h.Targets(hi - 1)[HorizonSteps-1]; last != 699 {
		t.Errorf("the last training target is %v; want 699", last)
	}
	lo, hi = ds.Valid(h)
	if lo != 699 || hi != 838 {
		t.Errorf("validation origins are %d to %d; want 699 to 838", lo, hi)
	}
	if first, last := h.Targets(lo)[0], h.Targets(hi - 1)[HorizonSteps-1]; first != 700 || last != 849 {
		t.Errorf("validation targets are %v to %v; want 700 to 849", first, last)
	}
}

func TestShortSeriesHaveEmptyParts(t *testing.T) {
	for _, n := range []int{0, 1, 12, 15} {
		h, ds := ramp(n), Dataset{}
		if lo, hi := ds.Train(h); lo != 0 || hi != 0 {
			t.Errorf("training origins of %d samples are %d to %d; want none", n, lo, hi)
		}
		if lo, hi := ds.Valid(h); hi > lo {
			t.Errorf("validation origins of %d samples are %d to %d; want none", n, lo, hi)
		}
	}
}

func TestSplitIsChecked(t *testing.T) {
	for _, s := range []Split{{Train: 0.5, Valid: 0.5}, {Train: 1}, DefaultSplit} {
		if err := s.Validate(); err != nil {
			t.Errorf("%v: %v", s, err)
		}
	}
	for _, s := range []Split{{}, {Train: -1}, {Train: 0.5, Valid: -0.1}, {Train: 0.9, Valid: 0.2}, {Train: nan}} {
		if err := s.Validate(); err == nil {
			t.Errorf("%v is no error", s)
		}
	}
	h, ds := ramp(100), Dataset{Split: Split{Train: 0.5, Valid: 0.5}}
	if lo, hi := ds.Valid(h); lo != 49 || hi != 88 {
		t.Errorf("validation origins are %d to %d; want 49 to 88", lo, hi)
	}
}

func TestHistoryCutsWindows(t *testing.T) {
	h := ramp(10)
	h.Series.Values[7] = nan
	got, ok := h.Window(8, 3)
	want := Window{Origin: time.Unix(480, 0).UTC(), Step: time.Minute, Values: []float64{5, 6, nan, 8}, With: []float64{50, 60, 70, 80}, Observed: 3}
	if diff := cmp.Diff(want, got, cmpopts.EquateNaNs()); diff != "" || !ok {
		t.Errorf("window is %v and differs (-want +got):\n%s", ok, diff)
	}
	if got, ok := h.Window(1, 100); !ok || len(got.Values) != 2 {
		t.Errorf("window at the start = %v, %v; want two samples", got, ok)
	}
	for _, i := range []int{-1, 7, 10} {
		if w, ok := h.Window(i, 3); ok {
			t.Errorf("window at %d = %v; want none", i, w)
		}
	}
}

func TestTargetsPastTheEndAreMissing(t *testing.T) {
	h := ramp(10)
	want := []float64{8, 9, nan, nan, nan, nan, nan, nan, nan, nan, nan, nan}
	if diff := cmp.Diff(want, h.Targets(7), cmpopts.EquateNaNs()); diff != "" {
		t.Errorf("targets differ (-want +got):\n%s", diff)
	}
	if got := h.Targets(9); !cmp.Equal(got, slicesOfNaN(HorizonSteps), cmpopts.EquateNaNs()) {
		t.Errorf("targets after the last sample are %v", got)
	}
}

func slicesOfNaN(n int) []float64 {
	out := make([]float64, n)
	for i := range out {
		out[i] = nan
	}
	return out
}

func FuzzReadCSV(f *testing.F) {
	f.Add([]byte(twoSeries))
	f.Add([]byte("series,timestamp_s,requests\n\"a,b\",0,1e-3\n\"a,b\",60,\n"))
	f.Add([]byte{0x1f, 0x8b, 0x08})
	f.Fuzz(func(t *testing.T, data []byte) {
		hs, err := ReadCSV(context.Background(), bytes.NewReader(data))
		if err != nil {
			return
		}
		for _, h := range hs {
			s := h.Series
			if s.Step <= 0 || !Align(s.Start, s.Step).Equal(s.Start) || len(s.Values) == 0 {
				t.Fatalf("series %v starts at %v by %v with %d samples", s.Labels, s.Start, s.Step, len(s.Values))
			}
			if len(h.With.Values) > 0 && (len(h.With.Values) != len(s.Values) || !h.With.Start.Equal(s.Start)) {
				t.Fatalf("the companion of %v is on another grid", s.Labels)
			}
		}
	})
}
