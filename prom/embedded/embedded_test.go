package embedded

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

// start is the time of the first back-filled sample of most tests. The server
// does not look at the clock unless it scrapes.
var start = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

func startServer(t testing.TB, o Options) *Server {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	s, err := Start(t.Context(), o)
	if err != nil {
		t.Fatalf("Start: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

// answer is the part of Prometheus' answers that the tests look at.
type answer struct {
	Status    string          `json:"status"`
	ErrorType string          `json:"errorType"`
	Error     string          `json:"error"`
	Data      json.RawMessage `json:"data"`
}

func get(t testing.TB, s *Server, path string, params url.Values) (int, answer) {
	t.Helper()
	code, body := getText(t, s, path+"?"+params.Encode())
	var a answer
	if err := json.Unmarshal([]byte(body), &a); err != nil {
		t.Fatalf("GET %s: %d %s: %v", path, code, body, err)
	}
	return code, a
}

func getText(t testing.TB, s *Server, path string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL()+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// query returns the result of an instant query as text: "{labels}": "value".
func query(t testing.TB, s *Server, expr string, at time.Time) map[string]string {
	t.Helper()
	code, a := get(t, s, "/api/v1/query", url.Values{"query": {expr}, "time": {stamp(at)}})
	if code != http.StatusOK {
		t.Fatalf("query %s: %d %s", expr, code, a.Error)
	}
	var data struct {
		Result []struct {
			Metric map[string]string `json:"metric"`
			Value  [2]any            `json:"value"`
		} `json:"result"`
	}
	if err := json.Unmarshal(a.Data, &data); err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, r := range data.Result {
		key, err := json.Marshal(r.Metric)
		if err != nil {
			t.Fatal(err)
		}
		out[string(key)], _ = r.Value[1].(string)
	}
	return out
}

func stamp(t time.Time) string { return strconv.FormatInt(t.Unix(), 10) }

// grid is a series of n samples a step apart whose values count from zero.
func grid(labels map[string]string, from time.Time, step time.Duration, n int) Series {
	s := Series{Labels: labels, Times: make([]int64, n), Values: make([]float64, n)}
	for i := range n {
		s.Times[i] = from.Add(time.Duration(i) * step).UnixMilli()
		s.Values[i] = float64(i)
	}
	return s
}

func appendAll(t testing.TB, s *Server, ss ...Series) {
	t.Helper()
	if err := s.Append(t.Context(), ss); err != nil {
		t.Fatalf("Append: %v", err)
	}
}

func TestAppendedSamplesAreQueriedOverHTTP(t *testing.T) {
	s := startServer(t, Options{})
	appendAll(t, s,
		grid(map[string]string{"__name__": "load", "pod": "a", "none": ""}, start, time.Minute, 61),
		grid(map[string]string{"__name__": "load", "pod": "b"}, start, time.Minute, 61))

	end := start.Add(time.Hour)
	if diff := cmp.Diff(map[string]string{`{"pod":"a"}`: "120", `{"pod":"b"}`: "120"}, query(t, s, `load * 2`, end)); diff != "" {
		t.Errorf("instant query (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{`{}`: "1"}, query(t, s, `60 * max(rate(load[10m]))`, end)); diff != "" {
		t.Errorf("rate (-want +got):\n%s", diff)
	}
	for path, want := range map[string]struct {
		params url.Values
		data   string
	}{
		"/api/v1/query_range": {
			params: url.Values{"query": {`load{pod="a"}`}, "start": {stamp(start)}, "end": {stamp(start.Add(2 * time.Minute))}, "step": {"60"}},
			data:   `{"resultType":"matrix","result":[{"metric":{"__name__":"load","pod":"a"},"values":[[1772323200,"0"],[1772323260,"1"],[1772323320,"2"]]}]}`,
		},
		"/api/v1/series": {
			params: url.Values{"match[]": {"load"}, "start": {stamp(start)}, "end": {stamp(end)}},
			data:   `[{"__name__":"load","pod":"a"},{"__name__":"load","pod":"b"}]`,
		},
		"/api/v1/labels":           {data: `["__name__","pod"]`},
		"/api/v1/label/pod/values": {data: `["a","b"]`},
	} {
		code, a := get(t, s, path, want.params)
		if code != http.StatusOK || string(a.Data) != want.data {
			t.Errorf("%s = %d %s %s\nwant 200 %s", path, code, a.Data, a.Error, want.data)
		}
	}
}

func TestErrorsAreThoseOfPrometheus(t *testing.T) {
	s := startServer(t, Options{})
	for name, row := range map[string]struct {
		path      string
		params    url.Values
		code      int
		errorType string
		text      string
	}{
		"an expression that does not parse is refused with its position": {
			path: "/api/v1/query", params: url.Values{"query": {"sum("}}, code: 400, errorType: "bad_data", text: "1:5: parse error",
		},
		"more than 11000 points a series are refused": {
			path:   "/api/v1/query_range",
			params: url.Values{"query": {"up"}, "start": {"0"}, "end": {"11001"}, "step": {"1"}},
			code:   400, errorType: "bad_data", text: "exceeded maximum resolution of 11,000 points",
		},
		"two series of equal labels are an execution error": {
			path: "/api/v1/query", params: url.Values{"query": {`label_replace(vector(1), "a", "$1", "b", "(") `}}, code: 422, errorType: "execution", text: "regular expression",
		},
	} {
		t.Run(name, func(t *testing.T) {
			code, a := get(t, s, row.path, row.params)
			if code != row.code || a.ErrorType != row.errorType || !strings.Contains(a.Error, row.text) {
				t.Errorf("got %d %s %q; want %d %s with %q", code, a.ErrorType, a.Error, row.code, row.errorType, row.text)
			}
		})
	}
}

func TestEveryEndpointAnswers(t *testing.T) {
	s := startServer(t, Options{Scrapes: []Scrape{{Job: "none", Target: "127.0.0.1:1", Interval: time.Hour}}})
	appendAll(t, s, grid(map[string]string{"__name__": "load"}, time.Now(), time.Minute, 3))
	for path, want := range map[string]string{
		"/-/healthy":                   "Prometheus Server is Healthy.\n",
		"/-/ready":                     "Prometheus Server is Ready.\n",
		"/metrics":                     "prometheus_tsdb_head_series ",
		"/api/v1/alertmanagers":        `"status":"success"`,
		"/api/v1/alerts":               `"alerts":[]`,
		"/api/v1/features":             `"status":"success"`,
		"/api/v1/metadata":             `"status":"success"`,
		"/api/v1/notifications":        `"status":"success"`,
		"/api/v1/openapi.yaml":         "openapi:",
		"/api/v1/rules":                `"groups":[]`,
		"/api/v1/scrape_pools":         `"status":"success"`,
		"/api/v1/status/buildinfo":     `"goVersion":"` + runtime.Version(),
		"/api/v1/status/config":        "job_name: none",
		"/api/v1/status/flags":         `"status":"success"`,
		"/api/v1/status/runtimeinfo":   `"reloadConfigSuccess":true`,
		"/api/v1/status/self_metrics":  "prometheus_tsdb_head_series",
		"/api/v1/status/tsdb":          `"numSeries":`,
		"/api/v1/status/tsdb/blocks":   `"status":"success"`,
		"/api/v1/status/walreplay":     `"status":"success"`,
		"/api/v1/targets":              `"status":"success"`,
		"/api/v1/format_query?query=a": `"status":"success"`,
	} {
		if code, body := getText(t, s, path); code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("GET %s = %d %.300s; want 200 with %q", path, code, body, want)
		}
	}
	for _, path := range []string{"/api/v1/notifications/live", "/api/v1/nonsense"} {
		if code, _ := getText(t, s, path); code < 200 || code == http.StatusInternalServerError {
			t.Errorf("GET %s = %d", path, code)
		}
	}
}

func TestNothingIsWrittenOverHTTP(t *testing.T) {
	s := startServer(t, Options{})
	for path, want := range map[string]int{
		"/api/v1/write":                    http.StatusNotFound,
		"/api/v1/otlp/v1/metrics":          http.StatusNotFound,
		"/api/v1/admin/tsdb/delete_series": http.StatusInternalServerError, // As Prometheus answers it.
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL()+path+"?match[]=a", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("POST %s = %d; want %d", path, resp.StatusCode, want)
		}
	}
}

func TestStaleMarkersEndASeriesAndNaNIsAValue(t *testing.T) {
	s := startServer(t, Options{})
	times := []int64{start.UnixMilli(), start.Add(time.Minute).UnixMilli()}
	appendAll(t, s,
		Series{Labels: map[string]string{"__name__": "gone"}, Times: times, Values: []float64{1, StaleMarker()}},
		Series{Labels: map[string]string{"__name__": "nan"}, Times: times, Values: []float64{1, math.NaN()}},
		Series{Labels: map[string]string{"__name__": "inf"}, Times: times, Values: []float64{1, math.Inf(1)}},
		Series{Labels: map[string]string{"__name__": "kept"}, Times: times[:1], Values: []float64{1}})
	got := query(t, s, `{__name__=~".+"}`, start.Add(2*time.Minute))
	want := map[string]string{`{"__name__":"nan"}`: "NaN", `{"__name__":"inf"}`: "+Inf", `{"__name__":"kept"}`: "1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("a minute after (-want +got):\n%s", diff)
	}
}

func TestAppendTakesAnyOrderWithinTheRetention(t *testing.T) {
	s := startServer(t, Options{Retention: 72 * time.Hour})
	name := map[string]string{"__name__": "load"}
	now := start.Add(72 * time.Hour)
	appendAll(t, s, grid(name, now, time.Minute, 1)) // As if it were scraped already.
	appendAll(t, s, grid(map[string]string{"__name__": "other"}, start, time.Minute, 10))
	appendAll(t, s, grid(name, start.Add(time.Hour), time.Minute, 600))
	appendAll(t, s, grid(name, start, time.Minute, 60))
	got := query(t, s, `count_over_time(load[73h])`, now)
	if diff := cmp.Diff(map[string]string{"{}": "661"}, got); diff != "" {
		t.Errorf("samples of load (-want +got):\n%s", diff)
	}
}

func TestAppendErrorsSayWhatIsWrong(t *testing.T) {
	s := startServer(t, Options{Retention: 24 * time.Hour})
	name := map[string]string{"__name__": "load"}
	appendAll(t, s, grid(name, start, time.Minute, 1))
	for title, row := range map[string]struct {
		series Series
		want   string
	}{
		"times and values differ in number": {
			series: Series{Labels: name, Times: []int64{1}}, want: "append series 1, map[__name__:load]: 1 times and 0 values; want as many of each",
		},
		"the metric has no name": {
			series: Series{Labels: map[string]string{"pod": "a"}}, want: "label __name__: missing",
		},
		"a label is not UTF-8": {
			series: Series{Labels: map[string]string{"__name__": "load", "pod": "\xff"}}, want: "not valid",
		},
		"a sample is older than the retention": {
			series: grid(name, start.Add(-25*time.Hour), time.Minute, 1), want: "sample 0, at 2026-02-27T23:00:00Z: too old sample",
		},
	} {
		t.Run(title, func(t *testing.T) {
			err := s.Append(t.Context(), []Series{grid(name, start.Add(time.Minute), time.Minute, 1), row.series})
			if err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("Append = %v; want %q", err, row.want)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Append(ctx, []Series{grid(name, start.Add(time.Hour), time.Minute, 1)}); !errors.Is(err, context.Canceled) {
		t.Errorf("Append with a cancelled context = %v; want context.Canceled", err)
	}
}

// target is an HTTP server with one gauge, and its address.
func target(t *testing.T, text func() string) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		_, _ = io.WriteString(w, text())
	}))
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

// eventually asks until ok, for scraping is bound to the real clock.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 500 {
		if ok() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("never: %s", what)
}

func TestTargetsAreScraped(t *testing.T) {
	addr := target(t, func() string { return `live_load{instance="mine",pod="a"} 7` + "\n" })
	s := startServer(t, Options{})
	now := time.Now()
	live := map[string]string{"__name__": "live_load", "job": "b", "instance": "mine", "pod": "a"}
	appendAll(t, s, grid(live, now.Add(-72*time.Hour), time.Minute, 72*60))

	scrapes := []Scrape{
		{Job: "a", Target: addr, Interval: 50 * time.Millisecond},
		{Job: "b", Target: addr, Interval: 50 * time.Millisecond, HonorLabels: true, Path: "/other"},
	}
	if err := s.SetScrapes(scrapes); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		fmt.Sprintf(`{"__name__":"live_load","exported_instance":"mine","instance":"%s","job":"a","pod":"a"}`, addr): "7",
		`{"__name__":"live_load","instance":"mine","job":"b","pod":"a"}`:                                             "7",
	}
	eventually(t, "both jobs scraped", func() bool { return cmp.Equal(want, query(t, s, "live_load", time.Now())) })
	if got := query(t, s, `count_over_time(live_load{job="b"}[73h]) > 4320`, time.Now()); len(got) != 1 {
		t.Errorf("back-filled and scraped samples are not one series: %v", got)
	}
	// History of a series that is scraped already.
	old := map[string]string{"__name__": "live_load", "job": "a", "instance": addr, "exported_instance": "mine", "pod": "a"}
	appendAll(t, s, grid(old, now.Add(-72*time.Hour), time.Minute, 72*60))
	if got := query(t, s, `count_over_time(live_load{job="a"}[73h]) > 4320`, time.Now()); len(got) != 1 {
		t.Errorf("samples that were back-filled late are not in the series: %v", got)
	}

	if err := s.SetScrapes(nil); err != nil {
		t.Fatal(err)
	}
	stopped := query(t, s, "count_over_time(live_load[1h])", time.Now())
	time.Sleep(4 * scrapes[0].Interval)
	if diff := cmp.Diff(stopped, query(t, s, "count_over_time(live_load[1h])", time.Now())); diff != "" {
		t.Errorf("scraping went on after SetScrapes(nil) (-before +after):\n%s", diff)
	}
}

func TestScrapesAreChecked(t *testing.T) {
	s := startServer(t, Options{})
	for name, row := range map[string]struct {
		scrapes []Scrape
		want    string
	}{
		"a job needs a name":          {[]Scrape{{Target: "127.0.0.1:1"}}, "scrape 0: job: missing"},
		"a target needs a port":       {[]Scrape{{Job: "a", Target: "127.0.0.1"}}, "want host:port"},
		"a path begins with a slash":  {[]Scrape{{Job: "a", Target: "127.0.0.1:1", Path: "x"}}, `path: "x"`},
		"an interval is not negative": {[]Scrape{{Job: "a", Target: "127.0.0.1:1", Interval: -1}}, "interval: -1ns"},
		"a job is there only once":    {[]Scrape{{Job: "a", Target: "127.0.0.1:1"}, {Job: "a", Target: "127.0.0.1:2"}}, `"a"`},
		"an interval is milliseconds": {[]Scrape{{Job: "a", Target: "127.0.0.1:1", Interval: time.Microsecond}}, "interval: 1µs"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := s.SetScrapes(row.scrapes); err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("SetScrapes = %v; want %q", err, row.want)
			}
		})
	}
}

func TestRestartKeepsDataAndAddress(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "here")
	s, err := Start(t.Context(), Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	labels := map[string]string{"__name__": "load"}
	appendAll(t, s, grid(labels, start.Add(24*time.Hour), time.Minute, 60))
	appendAll(t, s, grid(labels, start, time.Minute, 60)) // Out of order: in a log of its own.
	addr := strings.TrimPrefix(s.URL(), "http://")
	if err := s.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatalf("Close did not free the port: %v", err)
	}
	_ = l.Close()

	s = startServer(t, Options{Dir: dir, Listen: addr})
	got := query(t, s, `count_over_time(load[26h])`, start.Add(25*time.Hour))
	if diff := cmp.Diff(map[string]string{"{}": "120"}, got); diff != "" {
		t.Errorf("samples after the restart (-want +got):\n%s", diff)
	}
	appendAll(t, s, grid(labels, start.Add(25*time.Hour), time.Minute, 60))
	appendAll(t, s, grid(labels, start.Add(2*time.Hour), time.Minute, 60))
	got = query(t, s, `count_over_time(load[28h])`, start.Add(26*time.Hour))
	if diff := cmp.Diff(map[string]string{"{}": "240"}, got); diff != "" {
		t.Errorf("samples appended after the restart (-want +got):\n%s", diff)
	}
}

func TestAClosedServerRefusesWork(t *testing.T) {
	s := startServer(t, Options{Registerer: prometheus.NewRegistry()})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Append(t.Context(), []Series{grid(map[string]string{"__name__": "a"}, start, 1, 1)}); !errors.Is(err, errClosed) {
		t.Errorf("Append = %v; want errClosed", err)
	}
	if err := s.SetScrapes(nil); !errors.Is(err, errClosed) {
		t.Errorf("SetScrapes = %v; want errClosed", err)
	}
	rec := httptest.NewRecorder()
	s.http.Handler.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/-/ready", http.NoBody))
	if rec.Code != http.StatusServiceUnavailable {
		t.Errorf("a request that was in flight got %d; want 503", rec.Code)
	}
}

// Queries and appends that are under way must not outlive the files they read.
func TestCloseWaitsForItsUsers(t *testing.T) {
	s := startServer(t, Options{})
	appendAll(t, s, grid(map[string]string{"__name__": "load"}, start, time.Second, 50_000))
	var users sync.WaitGroup
	began := make(chan struct{}, 8)
	for i := range 4 {
		users.Go(func() {
			began <- struct{}{}
			for {
				resp, err := http.Get(s.URL() + "/api/v1/query?time=" + stamp(start.Add(14*time.Hour)) + "&query=" + url.QueryEscape("max_over_time(sum_over_time(load[1h])[13h:1m])"))
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			}
		})
		users.Go(func() {
			began <- struct{}{}
			labels := map[string]string{"__name__": "more", "user": strconv.Itoa(i)}
			for s.Append(t.Context(), []Series{grid(labels, start, time.Second, 10_000)}) == nil {
				continue
			}
		})
	}
	for range cap(began) {
		<-began
	}
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	users.Wait()
}

func TestStartSaysWhatIsWrong(t *testing.T) {
	running := startServer(t, Options{})
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	taken := prometheus.NewRegistry()
	if err := running.publish(taken); err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		options Options
		want    string
	}{
		"a directory is needed":              {Options{}, "dir: missing"},
		"the directory is a file":            {Options{Dir: file}, "open database in"},
		"the directory is in use":            {Options{Dir: running.db.Dir()}, "open database in"},
		"the port is in use":                 {Options{Dir: t.TempDir(), Listen: running.listener.Addr().String()}, "listen on"},
		"the address is none":                {Options{Dir: t.TempDir(), Listen: "nowhere"}, "listen on"},
		"the retention is too short":         {Options{Dir: t.TempDir(), Retention: time.Minute}, "retention: 1m0s is out of range; want 2h0m0s to"},
		"the retention is too long":          {Options{Dir: t.TempDir(), Retention: 1e6 * time.Hour}, "retention: 1000000h0m0s is out of range"},
		"a scrape is wrong":                  {Options{Dir: t.TempDir(), Scrapes: []Scrape{{}}}, "scrape 0: job: missing"},
		"its metrics are registered already": {Options{Dir: t.TempDir(), Registerer: taken}, "register metrics"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Start(t.Context(), row.options)
			if err == nil {
				_ = s.Close()
			}
			if err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("Start = %v; want %q", err, row.want)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Start(ctx, Options{Dir: t.TempDir()}); !errors.Is(err, context.Canceled) {
		t.Errorf("Start with a cancelled context = %v; want context.Canceled", err)
	}
}

func TestMetricsComeAndGoWithTheServer(t *testing.T) {
	reg := prometheus.NewRegistry()
	count := func() int {
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		return len(families)
	}
	for range 2 {
		s := startServer(t, Options{Registerer: reg})
		appendAll(t, s, grid(map[string]string{"__name__": "load"}, start, time.Minute, 3))
		if n := count(); n < 50 {
			t.Errorf("%d metrics while the server runs; want Prometheus' own", n)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if n := count(); n != 0 {
			t.Errorf("%d metrics after Close; want none", n)
		}
	}
}

// backfill is three days of 240 series by the minute: a million samples.
func backfill() []Series {
	const series, n = 240, 72 * 60
	out := make([]Series, series)
	for i := range out {
		out[i] = grid(map[string]string{"__name__": "load", "pod": strconv.Itoa(i)}, start, time.Minute, n)
		if i > 0 {
			out[i].Times = out[0].Times
		}
		for j := range out[i].Values {
			out[i].Values[j] = math.Sin(float64(i * j)) // Does not compress well.
		}
	}
	return out
}

func BenchmarkAppendAMillionSamples(b *testing.B) {
	ss := backfill()
	for b.Loop() {
		b.StopTimer()
		s := startServer(b, Options{})
		b.StartTimer()
		appendAll(b, s, ss...)
		b.StopTimer()
		debug.FreeOSMemory()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		b.ReportMetric(float64(m.HeapAlloc)/(1<<20), "MiB-heap")
		b.ReportMetric(resident(b), "MiB-resident")
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// resident is the resident set of the process in MiB, where the system tells.
func resident(b *testing.B) float64 {
	b.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	pages, err := strconv.ParseFloat(strings.Fields(string(text))[1], 64)
	if err != nil {
		b.Fatal(err)
	}
	return pages * float64(os.Getpagesize()) / (1 << 20)
}
