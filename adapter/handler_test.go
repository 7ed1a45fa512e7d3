package adapter

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"

	"github.com/kubeforecaster/kubeforecaster/forecaster"
)

var update = flag.Bool("update", false, "rewrite golden files")

// answer is what a handler answered.
type answer struct {
	status int
	header http.Header
	body   string
}

// newTestHandler makes a handler over testStore at t0 and with Persistence,
// changed by change.
func newTestHandler(t testing.TB, change func(*HandlerOptions)) http.Handler {
	t.Helper()
	registry := prometheus.NewRegistry()
	o := HandlerOptions{
		Store:      testStore(),
		Model:      func() forecaster.Model { return forecaster.Persistence{} },
		Gatherer:   registry,
		Registerer: registry,
		Version:    "1.2.3",
		Now:        at(t0.Add(20 * time.Second)),
	}
	if change != nil {
		change(&o)
	}
	h, err := NewHandler(o)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func do(t testing.TB, h http.Handler, method, target, body string, header ...string) answer {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return answer{status: w.Code, header: w.Header(), body: w.Body.String()}
}

func (a answer) into(t testing.TB, v any) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(a.body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		t.Fatalf("answer %s: %v", a.body, err)
	}
}

// problemDoc is a problem document of RFC 9457.
type problemDoc struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Errors []struct {
		Message  string `json:"message"`
		Location string `json:"location"`
		Value    any    `json:"value"`
	} `json:"errors"`
}

// problem reads a problem document and gives its faults as "location: message".
func (a answer) problem(t testing.TB) (doc problemDoc, faults []string) {
	t.Helper()
	if got := a.header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("content type = %q, want application/problem+json; body %s", got, a.body)
	}
	a.into(t, &doc)
	if doc.Status != a.status || doc.Title != http.StatusText(a.status) {
		t.Errorf("document says %d %s, the status is %d", doc.Status, doc.Title, a.status)
	}
	for _, e := range doc.Errors {
		faults = append(faults, e.Location+": "+e.Message)
	}
	return doc, faults
}

// loads is a JSON array of n values.
func loads(n int, value string) string {
	return "[" + strings.TrimSuffix(strings.Repeat(value+",", n), ",") + "]"
}

func predictBody(cpu, memory, rest string) string {
	return fmt.Sprintf(`{"cpu_loads":%s,"memory_loads":%s%s}`, cpu, memory, rest)
}

func TestPredictKeepsThePublishedShape(t *testing.T) {
	a := do(t, newTestHandler(t, nil), http.MethodPost, "/predict", predictBody(loads(15, "2"), loads(15, "64"), ""))
	if a.status != http.StatusOK || a.header.Get("Content-Type") != "application/json" {
		t.Fatalf("answer = %+v", a)
	}
	var got PredictResponse
	a.into(t, &got)
	cpu := map[string]float64{"0.1": 2, "0.5": 2, "0.9": 2, "0.95": 2, "0.99": 2}
	memory := map[string]float64{"0.1": 64, "0.5": 64, "0.9": 64, "0.95": 64, "0.99": 64}
	p := Prediction{CPU: 2, Memory: 64, CPUQuantiles: cpu, MemoryQuantiles: memory}
	want := PredictResponse{Predictions: []Prediction{p, p, p}, Model: "persistence", StepSeconds: 60}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
}

func TestPredictGivesTheModelTwoWindows(t *testing.T) {
	var got []forecaster.Window
	m := predictFunc(func(_ context.Context, ws []forecaster.Window) ([]forecaster.Forecast, error) {
		got = ws
		return []forecaster.Forecast{testForecast(-15, nil), testForecast(100, nil)}, nil
	})
	h := newTestHandler(t, func(o *HandlerOptions) { o.Model = func() forecaster.Model { return m } })
	cpu, memory := []float64{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 1.5e1}, slices.Repeat([]float64{7}, 15)
	body := `{"cpu_loads":[0,1,2,3,4,5,6,7,8,9,10,11,12,13,1.5e1],"memory_loads":` + loads(15, "7") + `,"steps":12,"step_seconds":30}`
	a := do(t, h, http.MethodPost, "/predict", body, "Content-Type", "application/json; charset=utf-8")
	if a.status != http.StatusOK {
		t.Fatal(a.body)
	}
	want := []forecaster.Window{
		{Labels: model.Metric{"resource": "cpu"}, Origin: t0, Step: 30 * time.Second, Values: cpu, With: memory, Observed: 15},
		{Labels: model.Metric{"resource": "memory"}, Origin: t0, Step: 30 * time.Second, Values: memory, With: cpu, Observed: 15},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("windows (-want +got):\n%s", diff)
	}
	var answer PredictResponse
	a.into(t, &answer)
	if len(answer.Predictions) != 12 || answer.StepSeconds != 30 || answer.Model != "stub-1" {
		t.Fatalf("answer = %+v", answer)
	}
	wantLast := Prediction{
		CPU: 6, Memory: 121,
		CPUQuantiles:    map[string]float64{"0.1": 0, "0.5": 6, "0.9": 16, "0.95": 26, "0.99": 36},
		MemoryQuantiles: map[string]float64{"0.1": 111, "0.5": 121, "0.9": 131, "0.95": 141, "0.99": 151},
	}
	if diff := cmp.Diff(wantLast, answer.Predictions[11]); diff != "" {
		t.Errorf("last step (-want +got):\n%s", diff)
	}
	if first := answer.Predictions[0]; first.CPU != 0 || first.CPUQuantiles["0.9"] != 5 {
		t.Errorf("first step = %+v, want nothing below zero", first)
	}
}

func TestPredictRefuses(t *testing.T) {
	ok := loads(15, "1")
	tests := []struct {
		name, body string
		status     int
		want       []string
	}{
		{"too few values", predictBody(loads(14, "1"), ok, ""), 422, []string{"body.cpu_loads: 14 values; want 15 to 10000"}},
		{"no value", predictBody("[]", ok, ""), 422, []string{"body.cpu_loads: 0 values; want 15 to 10000"}},
		{"too many values", predictBody(ok, loads(10_001, "1"), ""), 422, []string{"body.memory_loads: 10001 values; want 15 to 10000"}},
		{"unequal lengths", predictBody(ok, loads(16, "1"), ""), 422, []string{"body.memory_loads: 16 values, but cpu_loads has 15; want as many"}},
		{"a negative value", predictBody("[0,0,0,-2.5,"+ok[1:], ok, ""), 422, []string{"body.cpu_loads[3]: -2.5 is out of range; want 0 to 1e+18"}},
		{"a huge value", predictBody(ok, "[1e19,"+ok[1:], ""), 422, []string{"body.memory_loads[0]: 1e+19 is out of range; want 0 to 1e+18"}},
		{"a value that no float64 holds", predictBody(ok, "[1e999,"+ok[1:], ""), 422, []string{"body.memory_loads[0]: 1e999 is not a number"}},
		{"null for a value", predictBody("[null,"+ok[1:], ok, ""), 422, []string{"body.cpu_loads[0]: null is not a number"}},
		{"text for a value", predictBody(`["1",`+ok[1:], ok, ""), 422, []string{`body.cpu_loads[0]: "1" is not a number`}},
		{"the text NaN for a value", predictBody(`["NaN",`+ok[1:], ok, ""), 422, []string{`body.cpu_loads[0]: "NaN" is not a number`}},
		{"a field that is missing", `{"cpu_loads":` + ok + `}`, 422, []string{"body.memory_loads: missing; want at least 15 numbers"}},
		{"null for a list", predictBody("null", ok, ""), 422, []string{"body.cpu_loads: not an array; want at least 15 numbers"}},
		{"a number for a list", predictBody("3", ok, ""), 422, []string{"body.cpu_loads: not an array; want at least 15 numbers"}},
		{"no step", predictBody(ok, ok, `,"steps":0`), 422, []string{"body.steps: 0 is out of range; want a whole number from 1 to 12"}},
		{"a step too many", predictBody(ok, ok, `,"steps":13`), 422, []string{"body.steps: 13 is out of range; want a whole number from 1 to 12"}},
		{"half a step", predictBody(ok, ok, `,"steps":2.5`), 422, []string{"body.steps: 2.5 is out of range; want a whole number from 1 to 12"}},
		{"a short step", predictBody(ok, ok, `,"step_seconds":9`), 422, []string{"body.step_seconds: 9 is out of range; want a whole number from 10 to 900"}},
		{"a long step", predictBody(ok, ok, `,"step_seconds":901`), 422, []string{"body.step_seconds: 901 is out of range; want a whole number from 10 to 900"}},
		{"text for a number", predictBody(ok, ok, `,"steps":"`+strings.Repeat("x", 99)+`"`), 422, []string{`body.steps: "` + strings.Repeat("x", 39) + `… is out of range; want a whole number from 1 to 12`}},
		{"unknown fields", predictBody(ok, ok, `,"z":1,"CPU_loads":[]`), 422, []string{
			"body.CPU_loads: unknown; want cpu_loads, memory_loads, steps and step_seconds",
			"body.z: unknown; want cpu_loads, memory_loads, steps and step_seconds",
		}},
		{"all that is wrong, together", `{"steps":-1}`, 422, []string{
			"body.cpu_loads: missing; want at least 15 numbers",
			"body.memory_loads: missing; want at least 15 numbers",
			"body.steps: -1 is out of range; want a whole number from 1 to 12",
		}},
		{"NaN, which is no JSON", predictBody("[NaN]", ok, ""), 400, []string{"body.cpu_loads: not JSON: invalid character 'N' looking for beginning of value"}},
		{"a list", "[]", 400, []string{"body: a JSON array; want an object with cpu_loads and memory_loads"}},
		{"two documents", predictBody(ok, ok, "") + "{}", 400, []string{"body: not JSON: invalid character '{' after top-level value"}},
	}
	h := newTestHandler(t, nil)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			a := do(t, h, http.MethodPost, "/predict", test.body)
			_, faults := a.problem(t)
			if a.status != test.status {
				t.Errorf("status = %d, want %d", a.status, test.status)
			}
			if diff := cmp.Diff(test.want, faults); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPredictBoundsWhatItReadsAndSays(t *testing.T) {
	h := newTestHandler(t, nil)
	a := do(t, h, http.MethodPost, "/predict", predictBody(loads(1_000_000, "1"), loads(1_000_000, "1"), ""))
	_, faults := a.problem(t)
	want := []string{"body: request body is too large limit=1048576 bytes"}
	if diff := cmp.Diff(want, faults); a.status != http.StatusRequestEntityTooLarge || diff != "" {
		t.Errorf("a million values = %d, want 413 (-want +got):\n%s", a.status, diff)
	}
	a = do(t, h, http.MethodPost, "/predict", predictBody(loads(10_000, "-1"), loads(10_000, "x"), ""))
	if a.status != http.StatusBadRequest || len(a.body) > 1000 {
		t.Errorf("10,000 words = %d with %d bytes, want 400 and a short answer", a.status, len(a.body))
	}
	a = do(t, h, http.MethodPost, "/predict", predictBody(loads(10_000, "-1"), loads(10_000, "-1"), ""))
	if _, faults := a.problem(t); len(faults) != 10 {
		t.Errorf("20,000 faults gave %d, want the first 10", len(faults))
	}
	a = do(t, h, http.MethodPost, "/predict", "")
	_, faults = a.problem(t)
	if diff := cmp.Diff([]string{"body: request body is required"}, faults); a.status != http.StatusBadRequest || diff != "" {
		t.Errorf("no body = %d, want 400 (-want +got):\n%s", a.status, diff)
	}
	a = do(t, h, http.MethodPost, "/predict", predictBody(loads(15, "1"), loads(15, "1"), ""), "Content-Type", "application/x-www-form-urlencoded")
	_, faults = a.problem(t)
	want = []string{`header.Content-Type: "application/x-www-form-urlencoded" is not understood; want application/json`}
	if diff := cmp.Diff(want, faults); a.status != http.StatusUnsupportedMediaType || diff != "" {
		t.Errorf("a form = %d (-want +got):\n%s", a.status, diff)
	}
	a = do(t, h, http.MethodPost, "/predict", predictBody(loads(10_000, "1"), loads(10_000, "1"), ""), "Content-Type", "")
	if a.status != http.StatusOK {
		t.Errorf("10,000 values without a content type = %d %s, want 200", a.status, a.body)
	}
	if a = do(t, h, http.MethodGet, "/predict", ""); a.status != http.StatusMethodNotAllowed {
		t.Errorf("GET = %d, want 405", a.status)
	}
}

func TestPredictAnswersForTheModel(t *testing.T) {
	give := func(fs []forecaster.Forecast, err error) func() forecaster.Model {
		return func() forecaster.Model {
			return predictFunc(func(context.Context, []forecaster.Window) ([]forecaster.Forecast, error) { return fs, err })
		}
	}
	infinite := testForecast(1, nil)
	infinite.Quantiles[4][2] = math.Inf(1)
	noMedian := testForecast(1, nil)
	noMedian.Levels, noMedian.Quantiles = noMedian.Levels[2:], noMedian.Quantiles[2:]
	good := testForecast(1, nil)
	tests := []struct {
		name   string
		model  func() forecaster.Model
		status int
		detail string
	}{
		{"no model yet", func() forecaster.Model { return nil }, 503, "no model is loaded yet"},
		{"a failure stays inside", give(nil, errors.New("secret")), 500, "the model failed"},
		{"a history too short for the model", give(nil, fmt.Errorf("x: %w", forecaster.ErrShortHistory)), 422, "15 values are too few for the model stub-1; it needs 2"},
		{"a model that takes too long", give(nil, context.DeadlineExceeded), 503, "the model took longer than 10s"},
		{"a forecast too few", give([]forecaster.Forecast{good}, nil), 500, "the model failed"},
		{"a forecast that is infinite", give([]forecaster.Forecast{good, infinite}, nil), 500, "the model gave an unusable forecast"},
		{"a forecast without a median", give([]forecaster.Forecast{noMedian, good}, nil), 500, "the model gave an unusable forecast"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h := newTestHandler(t, func(o *HandlerOptions) { o.Model = test.model })
			a := do(t, h, http.MethodPost, "/predict", predictBody(loads(15, "1"), loads(15, "1"), ""))
			doc, _ := a.problem(t)
			if a.status != test.status || doc.Detail != test.detail {
				t.Errorf("answer = %d %q, want %d %q", a.status, doc.Detail, test.status, test.detail)
			}
			if retry := a.header.Get("Retry-After"); (retry != "") != (test.status == 503) {
				t.Errorf("Retry-After = %q with status %d", retry, a.status)
			}
		})
	}
}

func TestPredictRunsAFewAtATimeAndNotForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := predictFunc(func(ctx context.Context, _ []forecaster.Window) ([]forecaster.Forecast, error) {
			<-ctx.Done()
			return nil, fmt.Errorf("stopped: %w", ctx.Err())
		})
		h := newTestHandler(t, func(o *HandlerOptions) {
			o.Model = func() forecaster.Model { return hang }
			o.MaxPredictions = 1
			o.PredictTimeout = 3 * time.Second
		})
		body := predictBody(loads(15, "1"), loads(15, "1"), "")
		first := make(chan answer)
		start := time.Now()
		go func() { first <- do(t, h, http.MethodPost, "/predict", body) }()
		synctest.Wait()
		second := do(t, h, http.MethodPost, "/predict", body)
		if doc, _ := second.problem(t); second.status != 503 || doc.Detail != "1 predictions are running, which is the most at a time" {
			t.Errorf("a second one = %d %q", second.status, doc.Detail)
		}
		a := <-first
		if doc, _ := a.problem(t); a.status != 503 || doc.Detail != "the model took longer than 3s" || time.Since(start) != 3*time.Second {
			t.Errorf("the first = %d %q after %s", a.status, doc.Detail, time.Since(start))
		}
	})
}

func TestHealthIsExactlyWhatWasPublished(t *testing.T) {
	a := do(t, newTestHandler(t, nil), http.MethodGet, "/health", "")
	if a.status != http.StatusOK || strings.TrimSpace(a.body) != `{"status":"OK"}` {
		t.Errorf("answer = %d %q", a.status, a.body)
	}
}

func TestForecastsAreListedAndFiltered(t *testing.T) {
	tests := []struct {
		name, query string
		want        []string // metric/name=value
		total, next int
	}{
		{"everything that is fresh", "", []string{"orders=525", "report=325", "api=125", "web=225"}, 4, 0},
		{"by metric", "metric=Predicted_CPU_cores&namespace=batch", []string{"report=325"}, 1, 0},
		{"a metric without forecasts", "metric=predicted_memory_bytes", nil, 0, 0},
		{"by namespace", "namespace=shop", []string{"api=125", "web=225"}, 2, 0},
		{"by workload", "workload=web", []string{"web=225"}, 1, 0},
		{"by selector", "selector=workload+in+(web,report),workload_kind=Deployment", []string{"report=325", "web=225"}, 2, 0},
		{"at a view", "workload=web&horizon=12m&quantile=0.5", []string{"web=221"}, 1, 0},
		{"at a view of the selector", "selector=workload%3Dweb,horizon%3D1m,quantile%3D0.95", []string{"web=231"}, 1, 0},
		{"a first page", "limit=3", []string{"orders=525", "report=325", "api=125"}, 4, 3},
		{"a last page", "limit=3&offset=3", []string{"web=225"}, 4, 0},
		{"a page past the end", "offset=99", nil, 4, 0},
	}
	h := newTestHandler(t, nil)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			a := do(t, h, http.MethodGet, "/api/v1/forecasts?"+test.query, "")
			if a.status != http.StatusOK {
				t.Fatal(a.body)
			}
			var got Forecasts
			a.into(t, &got)
			var names []string
			for _, f := range got.Forecasts {
				names = append(names, fmt.Sprintf("%s=%v", f.Labels["workload"]+f.Labels["queue"], f.Value))
			}
			if diff := cmp.Diff(test.want, names); diff != "" {
				t.Errorf("forecasts (-want +got):\n%s", diff)
			}
			if got.Total != test.total || got.Next != test.next {
				t.Errorf("total, next = %d, %d; want %d, %d", got.Total, got.Next, test.total, test.next)
			}
			if got.Forecasts == nil {
				t.Error("forecasts are null, want a list")
			}
		})
	}
}

func TestForecastIsListedWhole(t *testing.T) {
	a := do(t, newTestHandler(t, nil), http.MethodGet, "/api/v1/forecasts?workload=web&horizon=2m", "")
	var got Forecasts
	a.into(t, &got)
	if len(got.Forecasts) != 1 || len(got.Forecasts[0].Steps) != 12 {
		t.Fatalf("answer = %s", a.body)
	}
	f := got.Forecasts[0]
	wantStep := ForecastStep{
		Time:      t0.Add(12 * time.Minute),
		Quantiles: map[string]float64{"0.1": 211, "0.5": 221, "0.9": 231, "0.95": 241, "0.99": 251},
	}
	if diff := cmp.Diff(wantStep, f.Steps[11]); diff != "" {
		t.Errorf("last step (-want +got):\n%s", diff)
	}
	f.Steps = nil
	want := ServedForecast{
		Metric: "predicted_cpu_cores", Labels: map[string]string{"namespace": "shop", "workload": "web", "workload_kind": "Deployment"},
		Value: 222, Horizon: "2m", Quantile: 0.9, Observed: 200, Origin: t0, Model: "test-1", StepSeconds: 60,
	}
	if diff := cmp.Diff(want, f); diff != "" {
		t.Errorf("forecast (-want +got):\n%s", diff)
	}
}

func TestForecastsThatAreStaleAreNotListed(t *testing.T) {
	h := newTestHandler(t, func(o *HandlerOptions) { o.Now = at(t0.Add(6 * time.Minute)) })
	if a := do(t, h, http.MethodGet, "/api/v1/forecasts", ""); strings.TrimSpace(a.body) != `{"forecasts":[],"total":0}` {
		t.Errorf("answer = %s", a.body)
	}
}

func TestForecastsRefuse(t *testing.T) {
	tests := []struct {
		name, query string
		status      int
		want        []string
	}{
		{"an unknown metric", "metric=nosuch", 404, []string{`query.metric: no rule makes the metric "nosuch"`}},
		{"a horizon beyond the rule's", "horizon=13m", 400, []string{`query.horizon: horizon "13m" is out of range; predicted_cpu_cores reaches 12m`}},
		{"a quantile that is none", "metric=predicted_cpu_cores&quantile=high", 400, []string{`query.quantile: quantile "high" is out of range; want a number from 0.1 to 0.99`}},
		{"a selector that does not parse", "selector=a%3D%3D%3D", 400, []string{"query.selector: unable to parse requirement: found '=', expected: identifier"}},
		{"a bad key in the selector", "selector=!horizon", 400, []string{`query.selector: "horizon" chooses the view of a forecast and takes one value, such as "horizon=5m"; got "!horizon"`}},
		{"a horizon twice", "selector=horizon%3D1m&horizon=1m", 400, []string{"query.horizon: horizon is given both as a parameter and in the selector; want it once"}},
		{"a quantile twice", "selector=quantile%3D0.5&quantile=0.5", 400, []string{"query.quantile: quantile is given both as a parameter and in the selector; want it once"}},
		{"a limit too high", "limit=1001", 422, []string{"query.limit: expected number <= 1000"}},
		{"no limit", "limit=0", 422, []string{"query.limit: expected number >= 1"}},
		{"a negative offset", "offset=-1", 422, []string{"query.offset: expected number >= 0"}},
		{"an unknown parameter", "metrics=x", 422, []string{"query.metrics: unknown query parameter"}},
	}
	h := newTestHandler(t, nil)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			a := do(t, h, http.MethodGet, "/api/v1/forecasts?"+test.query, "")
			_, faults := a.problem(t)
			if diff := cmp.Diff(test.want, faults); diff != "" || a.status != test.status {
				t.Errorf("status %d, want %d; faults (-want +got):\n%s", a.status, test.status, diff)
			}
		})
	}
}

func TestOpenAPIDocument(t *testing.T) {
	const golden = "testdata/openapi.golden.json"
	h := newTestHandler(t, nil)
	a := do(t, h, http.MethodGet, "/openapi.json", "")
	var got bytes.Buffer
	if err := json.Indent(&got, []byte(a.body), "", "  "); err != nil {
		t.Fatal(err)
	}
	got.WriteByte('\n')
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("document changed; run go test -update and read the difference (-want +got):\n%s", diff)
	}
	if y := do(t, h, http.MethodGet, "/openapi.yaml", ""); y.status != http.StatusOK || !strings.Contains(y.body, "openapi: 3.1.0") {
		t.Errorf("YAML = %d %.200s", y.status, y.body)
	}
}

func TestOpenAPIDocumentSaysTheBoundsThatHold(t *testing.T) {
	var doc struct {
		Components struct {
			Schemas map[string]struct {
				Properties map[string]struct {
					MinItems, MaxItems, Minimum, Maximum float64
					Default                              any
					Items                                struct{ Minimum, Maximum float64 }
				}
				AdditionalProperties *bool
			}
		}
		Paths map[string]map[string]struct {
			RequestBody struct {
				Content map[string]struct {
					Schema struct {
						Ref string `json:"$ref"`
					}
				}
			}
		}
	}
	a := do(t, newTestHandler(t, nil), http.MethodGet, "/openapi.json", "")
	if err := json.Unmarshal([]byte(a.body), &doc); err != nil {
		t.Fatal(err)
	}
	if ref := doc.Paths["/predict"]["post"].RequestBody.Content["application/json"].Schema.Ref; ref != "#/components/schemas/PredictRequest" {
		t.Errorf("the body of /predict is documented as %q", ref)
	}
	schema := doc.Components.Schemas["PredictRequest"]
	for _, field := range []string{"cpu_loads", "memory_loads"} {
		p := schema.Properties[field]
		if p.MinItems != minLoads || p.MaxItems != maxLoads || p.Items.Minimum != 0 || p.Items.Maximum != maxLoad {
			t.Errorf("%s = %+v", field, p)
		}
	}
	if p := schema.Properties["steps"]; p.Minimum != 1 || p.Maximum != forecaster.HorizonSteps || p.Default != float64(defaultSteps) {
		t.Errorf("steps = %+v", p)
	}
	if p := schema.Properties["step_seconds"]; p.Minimum != minStepSeconds || p.Maximum != maxStepSeconds || p.Default != float64(defaultStepSeconds) {
		t.Errorf("step_seconds = %+v", p)
	}
	if schema.AdditionalProperties == nil || *schema.AdditionalProperties {
		t.Error("the document allows unknown fields, the handler does not")
	}
}

func TestDocsWorkOffline(t *testing.T) {
	h := newTestHandler(t, nil)
	if a := do(t, h, http.MethodGet, "/docs", ""); a.status != http.StatusMovedPermanently || a.header.Get("Location") != "/docs/" {
		t.Errorf("/docs = %d to %q", a.status, a.header.Get("Location"))
	}
	page := do(t, h, http.MethodGet, "/docs/", "")
	if page.status != http.StatusOK || !strings.Contains(page.body, "/openapi.json") {
		t.Fatalf("page = %d %s", page.status, page.body)
	}
	links := regexp.MustCompile(`(?:src|href)="([^"]*)"`).FindAllStringSubmatch(page.body, -1)
	if len(links) < 3 {
		t.Fatalf("page links %v, want a style sheet and scripts", links)
	}
	for _, link := range links {
		if !strings.HasPrefix(link[1], "/docs/") {
			t.Errorf("%s is not served here", link[1])
			continue
		}
		if a := do(t, h, http.MethodGet, link[1], "", "Accept-Encoding", "gzip"); a.status != http.StatusOK || len(a.body) < 100 {
			t.Errorf("%s = %d with %d bytes", link[1], a.status, len(a.body))
		}
	}
}

func TestReadyGivesReasons(t *testing.T) {
	var reason error
	h := newTestHandler(t, func(o *HandlerOptions) { o.Ready = func() error { return reason } })
	if a := do(t, h, http.MethodGet, "/-/ready", ""); a.status != http.StatusOK || a.body != "ready\n" {
		t.Errorf("ready = %d %q", a.status, a.body)
	}
	reason = errors.Join(errors.New("no tick yet"), errors.New("no model"))
	if a := do(t, h, http.MethodGet, "/-/ready", ""); a.status != http.StatusServiceUnavailable || a.body != "not ready\nno tick yet\nno model\n" {
		t.Errorf("not ready = %d %q", a.status, a.body)
	}
	if a := do(t, h, http.MethodGet, "/-/healthy", ""); a.status != http.StatusOK || a.body != "healthy\n" {
		t.Errorf("healthy = %d %q", a.status, a.body)
	}
	if a := do(t, newTestHandler(t, nil), http.MethodGet, "/-/ready", ""); a.status != http.StatusOK {
		t.Errorf("without a check = %d, want 200", a.status)
	}
}

func TestReload(t *testing.T) {
	var calls int
	var fault error
	h := newTestHandler(t, func(o *HandlerOptions) {
		o.Reload = func(ctx context.Context) error {
			if _, bounded := ctx.Deadline(); !bounded {
				t.Error("a reload has no deadline")
			}
			calls++
			return fault
		}
	})
	if a := do(t, h, http.MethodPost, "/-/reload", ""); a.status != http.StatusOK || a.body != "reloaded\n" {
		t.Errorf("reload = %d %q", a.status, a.body)
	}
	fault = errors.New("config.yaml: line 3: unknown key")
	want := "reload failed; the old configuration stays\nconfig.yaml: line 3: unknown key\n"
	if a := do(t, h, http.MethodPost, "/-/reload", ""); a.status != http.StatusInternalServerError || a.body != want {
		t.Errorf("refused = %d %q", a.status, a.body)
	}
	if a := do(t, h, http.MethodGet, "/-/reload", ""); a.status != http.StatusMethodNotAllowed || a.header.Get("Allow") != http.MethodPost {
		t.Errorf("GET = %d, allow %q", a.status, a.header.Get("Allow"))
	}
	if a := do(t, h, http.MethodPost, "/-/reload", "", "Sec-Fetch-Site", "cross-site"); a.status != http.StatusForbidden {
		t.Errorf("from another site = %d, want 403", a.status)
	}
	if calls != 2 {
		t.Errorf("reloaded %d times, want 2", calls)
	}
	if a := do(t, newTestHandler(t, nil), http.MethodPost, "/-/reload", ""); a.status != http.StatusNotFound {
		t.Errorf("without a reload = %d, want 404", a.status)
	}
}

func TestMetricsShowForecastsAndRequests(t *testing.T) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(newTestCollector(t, testStore(), t0))
	h := newTestHandler(t, func(o *HandlerOptions) { o.Gatherer, o.Registerer = registry, registry })
	do(t, h, http.MethodGet, "/health", "")
	do(t, h, http.MethodGet, "/", "")
	do(t, h, http.MethodGet, "/nosuch", "")
	do(t, h, http.MethodPost, "/predict", "{}")
	do(t, h, http.MethodGet, "/docs/swagger-ui.css", "")
	a := do(t, h, http.MethodGet, "/metrics", "")
	for _, want := range []string{
		`kubeforecaster_forecast{horizon="5m",metric="predicted_cpu_cores",namespace="shop",quantile="0.9",workload="web",workload_kind="Deployment"} 224`,
		`kubeforecaster_http_requests_total{code="200",handler="/health"} 1`,
		`kubeforecaster_http_requests_total{code="200",handler="/"} 1`,
		`kubeforecaster_http_requests_total{code="200",handler="/docs/"} 1`,
		`kubeforecaster_http_requests_total{code="404",handler="none"} 1`,
		`kubeforecaster_http_requests_total{code="422",handler="/predict"} 1`,
		`kubeforecaster_http_request_duration_seconds_count{handler="/predict"} 1`,
	} {
		if !strings.Contains(a.body, want+"\n") {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	a = do(t, h, http.MethodGet, "/metrics", "", "Accept", "application/openmetrics-text; version=1.0.0")
	if !strings.HasPrefix(a.header.Get("Content-Type"), "application/openmetrics-text") || !strings.HasSuffix(a.body, "# EOF\n") {
		t.Errorf("content type = %q, want OpenMetrics", a.header.Get("Content-Type"))
	}
}

// brokenCollector fails at every scrape.
type brokenCollector struct{ desc *prometheus.Desc }

func (b brokenCollector) Describe(ch chan<- *prometheus.Desc) { ch <- b.desc }

func (b brokenCollector) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.NewInvalidMetric(b.desc, errors.New("broken"))
}

func TestOneFaultyCollectorHidesNoOther(t *testing.T) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(newTestCollector(t, testStore(), t0), brokenCollector{prometheus.NewDesc("broken", "x", nil, nil)})
	var log bytes.Buffer
	h := newTestHandler(t, func(o *HandlerOptions) {
		o.Gatherer, o.Registerer, o.Logger = registry, registry, slog.New(slog.NewTextHandler(&log, nil))
	})
	a := do(t, h, http.MethodGet, "/metrics", "")
	if a.status != http.StatusOK || !strings.Contains(a.body, "kubeforecaster_forecast_series") {
		t.Errorf("/metrics = %d %s", a.status, a.body)
	}
	if !strings.Contains(log.String(), "broken") {
		t.Errorf("log = %q, want the error", log.String())
	}
}

func TestRootPageLinksWhatIsServed(t *testing.T) {
	h := newTestHandler(t, func(o *HandlerOptions) { o.Version = "<b>1</b>" })
	page := do(t, h, http.MethodGet, "/", "")
	if page.status != http.StatusOK || strings.Contains(page.body, "<b>") {
		t.Fatalf("page = %d %s", page.status, page.body)
	}
	for _, link := range regexp.MustCompile(`href="([^"]*)"`).FindAllStringSubmatch(page.body, -1) {
		if a := do(t, h, http.MethodGet, link[1], ""); a.status != http.StatusOK {
			t.Errorf("%s = %d", link[1], a.status)
		}
	}
}

func TestHandlerNeedsItsParts(t *testing.T) {
	if _, err := NewHandler(HandlerOptions{Store: new(forecaster.Store)}); err == nil {
		t.Error("a handler without a model or gatherer was made")
	}
	registry := prometheus.NewRegistry()
	o := HandlerOptions{
		Store: new(forecaster.Store), Gatherer: registry, Registerer: registry,
		Model: func() forecaster.Model { return nil },
	}
	if _, err := NewHandler(o); err != nil {
		t.Fatal(err)
	}
	if _, err := NewHandler(o); err == nil {
		t.Error("two handlers share a registerer")
	}
	o.Registerer = nil
	if _, err := NewHandler(o); err != nil {
		t.Errorf("without a registerer: %v", err)
	}
}

func TestServerBoundsARequest(t *testing.T) {
	server := NewServer("127.0.0.1:0", newTestHandler(t, nil), nil)
	if server.ReadHeaderTimeout <= 0 || server.ReadTimeout <= 0 || server.WriteTimeout <= defaultReloadTimeout || server.IdleTimeout <= 0 {
		t.Errorf("timeouts = %+v", server)
	}
	ts := httptest.NewUnstartedServer(nil)
	ts.Config = server
	ts.Start()
	defer ts.Close()
	get := func(header string) int {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, ts.URL+"/health", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Filler", header)
		resp, err := ts.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode
	}
	if got := get("x"); got != http.StatusOK {
		t.Errorf("a request = %d, want 200", got)
	}
	if got := get(strings.Repeat("x", 80<<10)); got != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("a header of 80 KiB = %d, want 431", got)
	}
}
