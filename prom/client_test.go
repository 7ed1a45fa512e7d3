package prom

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/config"
	"github.com/prometheus/common/model"

	"github.com/kubeforecaster/kubeforecaster/forecaster"
	"github.com/kubeforecaster/kubeforecaster/prom/embedded"
)

// matrixBody is an answer with one series: 1 at t0 and 2 a minute later.
const matrixBody = `{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"__name__":"load","pod":"a"},"values":[[1772366400,"1"],[1772366460,"2"]]}]}}`

// matrixSeries is what a query of two minutes from t0 makes of matrixBody.
var matrixSeries = []forecaster.Series{{Labels: model.Metric{"pod": "a"}, Start: t0, Step: time.Minute, Values: []float64{1, 2}}}

func newClient(t testing.TB, o Options) *Client {
	t.Helper()
	if o.firstPause == 0 {
		o.firstPause = time.Millisecond
	}
	c, err := New(o)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	t.Cleanup(c.Close)
	return c
}

// serve answers every request with the given handler, on 127.0.0.1.
func serve(t testing.TB, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv
}

func answer(w http.ResponseWriter, status int, body string) {
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

// wantSeries asks for two minutes from t0 on and wants matrixSeries.
func wantSeries(t *testing.T, c *Client) {
	t.Helper()
	got, err := c.QueryRange(t.Context(), "load", minutes(2))
	if err != nil {
		t.Fatalf("QueryRange: %v", err)
	}
	if diff := cmp.Diff(matrixSeries, got, cmpopts.EquateNaNs()); diff != "" {
		t.Errorf("series (-want +got):\n%s", diff)
	}
}

// network is a fake of it, for tests whose time is not real.
type network func(*http.Request) (*http.Response, error)

func (n network) RoundTrip(req *http.Request) (*http.Response, error) { return n(req) }

func response(status int, body string, headers ...string) *http.Response {
	r := &http.Response{
		StatusCode: status, Status: fmt.Sprintf("%d %s", status, http.StatusText(status)),
		Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)),
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return r
}

func TestStatusDecidesErrorAndRetry(t *testing.T) {
	badData := `{"status":"error","errorType":"bad_data","error":"invalid parameter \"query\": 1:5: parse error: unclosed left parenthesis"}`
	for name, row := range map[string]struct {
		status   int
		body     string
		want     error
		text     string
		attempts int
	}{
		"400 of Prometheus is a bad query, with its message": {400, badData, ErrBadQuery, "1:5: parse error: unclosed left parenthesis", 1},
		"422 of Prometheus is a bad query":                   {422, `{"status":"error","errorType":"execution","error":"many-to-many matching"}`, ErrBadQuery, "many-to-many matching", 1},
		"400 of something else is not understood":            {400, "Client sent an HTTP request to an HTTPS server.", ErrBadAnswer, "HTTPS server", 1},
		"404 is not understood":                              {404, "<h1>no such page</h1>", ErrBadAnswer, "no such page</h1>; want the URL below which /api/v1/query lies", 1},
		"200 without JSON is not understood":                 {200, "<h1>welcome</h1>", ErrBadAnswer, "invalid character '<'", 1},
		"200 with an error is not understood":                {200, badData, ErrBadAnswer, "", 1},
		"200 with a vector is not understood":                {200, `{"status":"success","data":{"resultType":"vector","result":[]}}`, ErrBadAnswer, "gave no matrix but model.Vector", 1},
		"200 with a broken sample is not understood":         {200, `{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[1,"x"]]}]}}`, ErrBadAnswer, "", 1},
		"200 with no series is no data":                      {200, `{"status":"success","data":{"resultType":"matrix","result":[]}}`, forecaster.ErrNoData, "no series", 1},
		"401 is unauthorized":                                {401, "who are you", ErrUnauthorized, "status 401: client error: 401: who are you", 1},
		"403 is unauthorized, and tried with GET too":        {403, "not you", ErrUnauthorized, "status 403", 2},
		"429 is tried again":                                 {429, "slow down", ErrUnavailable, "slow down", 4},
		"500 is tried again":                                 {500, "oops", ErrUnavailable, "server error: 500: oops", 4},
		"501 is tried with GET":                              {501, "", ErrUnavailable, "server error: 501", 2},
		"503 is tried again":                                 {503, `{"status":"error","errorType":"timeout","error":"query timed out"}`, ErrUnavailable, "query timed out", 4},
		"a redirect to nowhere is not understood":            {304, "", ErrBadAnswer, "status 304", 1},
	} {
		t.Run(name, func(t *testing.T) {
			var attempts atomic.Int32
			srv := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				attempts.Add(1)
				answer(w, row.status, row.body)
			})
			c := newClient(t, Options{URL: srv.URL})
			_, err := c.QueryRange(t.Context(), "sum(", minutes(2))
			if !errors.Is(err, row.want) || !strings.Contains(err.Error(), row.text) {
				t.Errorf("error = %v; want %v with %q", err, row.want, row.text)
			}
			if !strings.Contains(err.Error(), `query "sum("`) || !strings.Contains(err.Error(), srv.URL) {
				t.Errorf("error = %v; want one that names the expression and the URL", err)
			}
			if n := int(attempts.Load()); n != row.attempts {
				t.Errorf("%d attempts; want %d", n, row.attempts)
			}
		})
	}
}

func TestFaultsThatPassAreRetried(t *testing.T) {
	for name, fault := range map[string]http.HandlerFunc{
		"503":                  func(w http.ResponseWriter, _ *http.Request) { answer(w, 503, "") },
		"429 with Retry-After": func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Retry-After", "0"); answer(w, 429, "") },
		"a connection that breaks": func(http.ResponseWriter, *http.Request) {
			panic(http.ErrAbortHandler)
		},
		"an answer that breaks off": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			answer(w, 200, matrixBody[:20])
		},
	} {
		t.Run(name, func(t *testing.T) {
			var attempts atomic.Int32
			srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if attempts.Add(1) < 3 {
					fault(w, r)
					return
				}
				if err := r.ParseForm(); err != nil || r.Form.Get("query") != "load" {
					t.Errorf("the request was not repeated whole: %v %v", r.Form, err)
				}
				answer(w, 200, matrixBody)
			})
			reg := prometheus.NewRegistry()
			c := newClient(t, Options{URL: srv.URL, Registerer: reg})
			wantSeries(t, c)
			if got := testutil.ToFloat64(c.metrics.retries); got < 1 || got > 2 { // net/http repeats broken connections itself.
				t.Errorf("%v retries counted; want up to 2", got)
			}
		})
	}
}

func TestARefusedConnectionIsUnreachable(t *testing.T) {
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	c := newClient(t, Options{URL: "http://" + addr})
	for name, err := range map[string]error{
		"QueryRange": second(c.QueryRange(t.Context(), "load", minutes(2))),
		"Check":      c.Check(t.Context(), "load"),
	} {
		if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("%s = %v; want ErrUnreachable", name, err)
		}
	}
	if got := testutil.ToFloat64(c.metrics.retries); got != 6 {
		t.Errorf("%v retries; want 3 of each query", got)
	}
}

func second[A, B any](_ A, b B) B { return b }

func TestPausesBetweenAttempts(t *testing.T) {
	for name, row := range map[string]struct {
		headers  []string
		min, max time.Duration
	}{
		"pauses double, give or take half":   {nil, (250 + 500 + 1000) * time.Millisecond / 2, (250 + 500 + 1000) * time.Millisecond * 3 / 2},
		"Retry-After in seconds is honoured": {[]string{"Retry-After", "7"}, 21 * time.Second, 21 * time.Second},
		"Retry-After as a date is honoured":  {[]string{"Retry-After", "Sat, 01 Jan 2000 00:00:10 GMT"}, 10 * time.Second, 10 * time.Second},
		"Retry-After is bounded":             {[]string{"Retry-After", "86400"}, 90 * time.Second, 90 * time.Second},
		"Retry-After is not negative":        {[]string{"Retry-After", "-5"}, 0, 0},
		"Retry-After that is none is passed": {[]string{"Retry-After", "soon"}, 875 * time.Millisecond, 2625 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // It is midnight on 2000-01-01.
				attempts := 0
				c := newClient(t, Options{URL: "http://p", firstPause: firstPause, transport: network(func(*http.Request) (*http.Response, error) {
					if attempts++; attempts < 4 {
						return response(429, "", row.headers...), nil
					}
					return response(200, matrixBody), nil
				})})
				began := time.Now()
				wantSeries(t, c)
				if took := time.Since(began); took < row.min || took > row.max {
					t.Errorf("took %s; want %s to %s", took, row.min, row.max)
				}
			})
		})
	}
}

// hang answers nothing until the request is given up.
func hang(req *http.Request) (*http.Response, error) {
	<-req.Context().Done()
	return nil, req.Context().Err()
}

func TestDeadlines(t *testing.T) {
	for name, row := range map[string]struct {
		network  network
		deadline time.Duration
		took     time.Duration
		want     []error
		text     string
	}{
		"every attempt has its own": { // Pauses of 1 and 2 ms between them, less half at most.
			network: hang, deadline: time.Hour, took: 3*10*time.Second + 1500*time.Microsecond, want: []error{ErrUnreachable}, text: "no answer within 10s",
		},
		"the caller's ends them all": {
			network: hang, deadline: 25 * time.Second, took: 25 * time.Second, want: []error{ErrUnreachable, context.DeadlineExceeded}, text: "deadline exceeded",
		},
		"a pause that outlasts it is not begun": {
			network:  func(*http.Request) (*http.Response, error) { return response(503, "", "Retry-After", "20"), nil },
			deadline: 15 * time.Second, took: 0, want: []error{ErrUnavailable}, text: "503",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newClient(t, Options{URL: "http://p", Timeout: 10 * time.Second, MaxAttempts: 3, transport: row.network})
				ctx, cancel := context.WithTimeout(t.Context(), row.deadline)
				defer cancel()
				began := time.Now()
				_, err := c.QueryRange(ctx, "load", minutes(2))
				for _, want := range row.want {
					if !errors.Is(err, want) {
						t.Errorf("error = %v; want %v", err, want)
					}
				}
				if err == nil || !strings.Contains(err.Error(), row.text) {
					t.Errorf("error = %v; want %q", err, row.text)
				}
				if took := time.Since(began); took < row.took || took > row.took+5*time.Millisecond {
					t.Errorf("took %s; want %s", took, row.took)
				}
			})
		})
	}
}

func TestCancellingEndsAQuery(t *testing.T) {
	for name, n := range map[string]network{
		"under way":     hang,
		"in a pause":    func(*http.Request) (*http.Response, error) { return response(503, "", "Retry-After", "20"), nil },
		"after a fault": func(*http.Request) (*http.Response, error) { return nil, errors.New("broken pipe") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newClient(t, Options{URL: "http://p", firstPause: time.Minute, transport: n})
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(time.Second, cancel)
				began := time.Now()
				_, err := c.QueryRange(ctx, "load", minutes(2))
				if !errors.Is(err, context.Canceled) || time.Since(began) != time.Second {
					t.Errorf("error = %v after %s; want context.Canceled after 1s", err, time.Since(began))
				}
				if got := testutil.ToFloat64(c.metrics.queries.WithLabelValues("canceled")); got != 1 {
					t.Errorf("%v queries counted as canceled; want 1", got)
				}
			})
		})
	}
}

func TestRequestsInFlightAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var inFlight, most int
		var mu sync.Mutex
		c := newClient(t, Options{URL: "http://p", MaxConcurrent: 3, transport: network(func(*http.Request) (*http.Response, error) {
			mu.Lock()
			inFlight++
			most = max(most, inFlight)
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			inFlight--
			mu.Unlock()
			return response(200, matrixBody), nil
		})})
		began := time.Now()
		var queries sync.WaitGroup
		for range 10 {
			queries.Go(func() { wantSeries(t, c) })
		}
		synctest.Wait() // All ten are sent or waiting.
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		if _, err := c.QueryRange(ctx, "load", minutes(2)); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 500*time.Millisecond {
			t.Errorf("a query in the queue ended after %s with %v; want its deadline", time.Since(began), err)
		}
		queries.Wait()
		if took := time.Since(began); most != 3 || took != 4*time.Second {
			t.Errorf("%d at a time, %s for all; want 3 and 4s", most, took)
		}
	})
}

func TestPartialAnswersAreRefusedUnlessAllowed(t *testing.T) {
	for name, row := range map[string]struct {
		warning string
		allow   bool
		want    error
	}{
		"a store is down":            {"store-1 is down", false, ErrPartial},
		"a store is down, allowed":   {"store-1 is down", true, nil},
		"the expression is doubtful": {"PromQL warning: metric might not be a counter", false, nil},
	} {
		t.Run(name, func(t *testing.T) {
			body := strings.Replace(matrixBody, `"data"`, `"warnings":["`+row.warning+`"],"data"`, 1)
			c := newClient(t, Options{URL: "http://p", AllowPartial: row.allow, transport: network(func(*http.Request) (*http.Response, error) {
				return response(200, body), nil
			})})
			if _, err := c.QueryRange(t.Context(), "load", minutes(2)); !errors.Is(err, row.want) || (err == nil) != (row.want == nil) {
				t.Errorf("error = %v; want %v", err, row.want)
			}
		})
	}
}

func TestTimeoutIsAskedOfTheServerInWholeSeconds(t *testing.T) {
	for timeout, want := range map[time.Duration]string{1500 * time.Millisecond: "2s", 90 * time.Second: "1m30s", time.Millisecond: "1s"} {
		var got string
		c := newClient(t, Options{URL: "http://p", Timeout: timeout, transport: network(func(r *http.Request) (*http.Response, error) {
			got = formOf(t, r).Get("timeout")
			return response(200, matrixBody), nil
		})})
		wantSeries(t, c)
		if got != want {
			t.Errorf("timeout %s is sent as %q; want %q", timeout, got, want)
		}
	}
}

func formOf(t *testing.T, r *http.Request) url.Values {
	t.Helper()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		t.Fatal(err)
	}
	return form
}

func TestRangesAreAlignedAndSplit(t *testing.T) {
	for name, row := range map[string]struct {
		r    forecaster.Range
		max  int
		want []string
	}{
		"a range off the grid is aligned inwards": {
			forecaster.Range{Start: t0.Add(-time.Second), End: t0.Add(2*time.Minute + time.Second), Step: time.Minute}, 0, []string{"0s..2m0s"},
		},
		"a single point is a range":             {minutes(1), 0, []string{"0s..0s"}},
		"as many points as allowed are one":     {minutes(11_000), 0, []string{"0s..183h19m0s"}},
		"one more is a part of its own":         {minutes(11_001), 0, []string{"0s..183h19m0s", "183h20m0s..183h20m0s"}},
		"parts neither overlap nor leave a gap": {minutes(8), 3, []string{"0s..2m0s", "3m0s..5m0s", "6m0s..7m0s"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			c := newClient(t, Options{URL: "http://p", MaxPoints: row.max, transport: network(func(r *http.Request) (*http.Response, error) {
				form := formOf(t, r)
				if form.Get("step") != "60" {
					t.Errorf("step %q; want 60", form.Get("step"))
				}
				got = append(got, since(t, form.Get("start"))+".."+since(t, form.Get("end")))
				return response(200, matrixBody), nil
			})})
			ss, err := c.QueryRange(t.Context(), "load", row.r)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(row.want, got); diff != "" {
				t.Errorf("parts (-want +got):\n%s", diff)
			}
			if n := row.r.Align().Len(); len(ss[0].Values) != n || !ss[0].Start.Equal(t0) {
				t.Errorf("%d values from %s; want %d from %s", len(ss[0].Values), ss[0].Start, n, t0)
			}
		})
	}
}

// since is a time as sent to the server, as the time after t0.
func since(t *testing.T, seconds string) string {
	t.Helper()
	var at model.Time
	if err := at.UnmarshalJSON([]byte(seconds)); err != nil {
		t.Fatal(err)
	}
	return at.Time().Sub(t0).String()
}

func TestRangesThatAreNoneAreRefused(t *testing.T) {
	c := newClient(t, Options{URL: "http://p", transport: network(func(*http.Request) (*http.Response, error) {
		t.Error("a request was sent")
		return response(200, matrixBody), nil
	})})
	hour := t0.Add(time.Hour)
	for name, row := range map[string]struct {
		r    forecaster.Range
		want string
	}{
		"without a step":           {forecaster.Range{Start: t0, End: hour}, "step 0s"},
		"with a negative step":     {forecaster.Range{Start: t0, End: hour, Step: -time.Minute}, "step -1m0s"},
		"with part of a ms":        {forecaster.Range{Start: t0, End: hour, Step: time.Millisecond + 1}, "whole milliseconds"},
		"that ends before it came": {forecaster.Range{Start: hour, End: t0, Step: time.Minute}, "no multiple of its step"},
		"between two points":       {forecaster.Range{Start: t0.Add(time.Second), End: t0.Add(2 * time.Second), Step: time.Minute}, "no multiple of its step"},
		"without a start":          {forecaster.Range{End: hour, Step: time.Minute}, "before 1970"},
		"into the far future":      {forecaster.Range{Start: t0, End: t0.AddDate(400, 0, 0), Step: time.Minute}, "after 2200"},
		"of millions of points":    {forecaster.Range{Start: t0, End: t0.AddDate(1, 0, 0), Step: time.Second}, "at most 1000000"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := c.QueryRange(t.Context(), "load", row.r); err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("error = %v; want %q", err, row.want)
			}
		})
	}
}

func TestAnswersAreBounded(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, _ *http.Request) { answer(w, 200, matrixBody) })
	_, err := newClient(t, Options{URL: srv.URL, maxBody: int64(len(matrixBody) - 1)}).QueryRange(t.Context(), "load", minutes(2))
	if !errors.Is(err, ErrTooLarge) || errors.Is(err, ErrUnreachable) {
		t.Errorf("an answer too large: %v; want ErrTooLarge", err)
	}
	wantSeries(t, newClient(t, Options{URL: srv.URL, maxBody: int64(len(matrixBody))}))
}

func TestGETIsUsedWherePOSTIsNotAllowed(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			answer(w, http.StatusMethodNotAllowed, "")
			return
		}
		if q := r.URL.Query(); q.Get("query") != "load" || !slices.Equal(q["dedup"], []string{"true"}) {
			t.Errorf("GET %s; want the query and the extra parameter", r.URL)
		}
		answer(w, 200, matrixBody)
	})
	wantSeries(t, newClient(t, Options{URL: srv.URL, Params: url.Values{"dedup": {"true"}}}))
}

func TestParamsAndHeadersAreOnEveryRequest(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/prometheus/api/v1/query_range" {
			t.Errorf("path %q", r.URL.Path)
		}
		if diff := cmp.Diff(url.Values{"dedup": {"true"}, "match": {"a", "b c"}}, r.URL.Query()); diff != "" {
			t.Errorf("parameters (-want +got):\n%s", diff)
		}
		if got := r.Header.Get("X-Scope-OrgID"); got != "team-a" {
			t.Errorf("X-Scope-OrgID %q; want team-a", got)
		}
		if got := r.Header.Get("User-Agent"); got != "kubeforecaster" {
			t.Errorf("User-Agent %q; want kubeforecaster", got)
		}
		answer(w, 200, matrixBody)
	})
	c := newClient(t, Options{
		URL:    srv.URL + "/prometheus/",
		Params: url.Values{"dedup": {"true"}, "match": {"a", "b c"}},
		HTTPClient: config.HTTPClientConfig{HTTPHeaders: &config.Headers{Headers: map[string]config.Header{
			"X-Scope-OrgID": {Values: []string{"team-a"}},
		}}},
	})
	wantSeries(t, c)
}

func TestParamsStayWithTheirHost(t *testing.T) {
	other := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery != "" {
			t.Errorf("parameters %q went to another host", r.URL.RawQuery)
		}
		answer(w, 200, matrixBody)
	})
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL+r.URL.Path, http.StatusTemporaryRedirect)
	})
	wantSeries(t, newClient(t, Options{URL: srv.URL, Params: url.Values{"apikey": {"hunter2"}}}))
}

func TestSecretsAreInNoError(t *testing.T) {
	secret := func(r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "me" || password != "hunter2" {
			t.Errorf("credentials %q %q; want those of the URL", user, password)
		}
	}
	for name, handler := range map[string]http.HandlerFunc{
		"of the server":     func(w http.ResponseWriter, r *http.Request) { secret(r); answer(w, 500, "") },
		"of the connection": func(_ http.ResponseWriter, r *http.Request) { secret(r); panic(http.ErrAbortHandler) },
		"of the query":      func(w http.ResponseWriter, r *http.Request) { secret(r); answer(w, 400, "") },
		"of too many redirects": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.String(), http.StatusTemporaryRedirect)
		},
		"of a broken GET": func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet {
				panic(http.ErrAbortHandler)
			}
			answer(w, 405, "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			srv := serve(t, handler)
			logged := &strings.Builder{}
			c := newClient(t, Options{
				URL:    strings.Replace(srv.URL, "http://", "http://me:hunter2@", 1),
				Params: url.Values{"apikey": {"hunter2"}},
				Logger: slog.New(slog.NewTextHandler(logged, &slog.HandlerOptions{Level: slog.LevelDebug})),
			})
			_, err := c.QueryRange(t.Context(), "load", minutes(2))
			if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), srv.URL) {
				t.Errorf("error = %v; want one with the URL and without hunter2", err)
			}
			if strings.Contains(logged.String(), "hunter2") {
				t.Errorf("log holds a secret:\n%s", logged)
			}
		})
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCredentialsAreReadAgainFromTheirFiles(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "secret")
	basic := func(secret string) string {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody)
		r.SetBasicAuth("me", secret)
		return r.Header.Get("Authorization")
	}
	for name, row := range map[string]struct {
		config config.HTTPClientConfig
		want   func(secret string) string
	}{
		"bearer token": {
			config.HTTPClientConfig{Authorization: &config.Authorization{Type: "Bearer", CredentialsFile: file}},
			func(s string) string { return "Bearer " + s },
		},
		"bearer token, in its old form": {
			config.HTTPClientConfig{BearerTokenFile: file},
			func(s string) string { return "Bearer " + s },
		},
		"password": {
			config.HTTPClientConfig{BasicAuth: &config.BasicAuth{Username: "me", PasswordFile: file}},
			basic,
		},
	} {
		t.Run(name, func(t *testing.T) {
			var got atomic.Value
			srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
				got.Store(r.Header.Get("Authorization"))
				answer(w, 200, matrixBody)
			})
			c := newClient(t, Options{URL: srv.URL, HTTPClient: row.config})
			for _, secret := range []string{"first", "second"} {
				write(t, file, secret+"\n")
				wantSeries(t, c)
				if got.Load() != row.want(secret) {
					t.Errorf("Authorization %q; want %q", got.Load(), row.want(secret))
				}
			}
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			if err := c.Check(t.Context(), "load"); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), file) {
				t.Errorf("without the file: %v; want ErrUnreachable that names it", err)
			}
		})
	}
}

// otherCA is the certificate of a CA that has signed nothing.
func otherCA(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestTLSIsCheckedAgainstAFileThatIsReadAgain(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w, 200, matrixBody) }))
	t.Cleanup(srv.Close)
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	file := filepath.Join(t.TempDir(), "ca.pem")
	write(t, file, otherCA(t))
	c := newClient(t, Options{URL: srv.URL, HTTPClient: config.HTTPClientConfig{TLSConfig: config.TLSConfig{CAFile: file}}})
	if err := c.Check(t.Context(), "load"); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a server of another CA: %v; want ErrUnreachable for its certificate", err)
	}
	write(t, file, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})))
	wantSeries(t, c)
}

func TestOAuth2(t *testing.T) {
	var tokens atomic.Int32
	issuer := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if id, secret, _ := r.BasicAuth(); id != "me" || secret != "right" {
			w.Header().Set("Content-Type", "application/json")
			answer(w, 401, `{"error":"invalid_client"}`)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		answer(w, 200, fmt.Sprintf(`{"access_token":"token-%d","token_type":"Bearer","expires_in":3600}`, tokens.Add(1)))
	})
	var requests atomic.Int32
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		if got := r.Header.Get("Authorization"); got != "Bearer token-1" {
			t.Errorf("Authorization %q; want that of the issuer", got)
		}
		answer(w, 200, matrixBody)
	})
	file := filepath.Join(t.TempDir(), "secret")
	write(t, file, "wrong")
	c := newClient(t, Options{URL: srv.URL, HTTPClient: config.HTTPClientConfig{
		OAuth2: &config.OAuth2{ClientID: "me", ClientSecretFile: file, TokenURL: issuer.URL},
	}})
	err := c.Check(t.Context(), "load")
	if !errors.Is(err, ErrUnauthorized) || !strings.Contains(err.Error(), "invalid_client") || requests.Load() != 0 {
		t.Errorf("with a wrong secret: %v, %d requests; want ErrUnauthorized and none", err, requests.Load())
	}
	if got := testutil.ToFloat64(c.metrics.retries); got != 0 {
		t.Errorf("%v retries with a wrong secret; want none", got)
	}
	write(t, file, "right")
	wantSeries(t, c)
	wantSeries(t, c)
	if tokens.Load() != 1 {
		t.Errorf("%d tokens for two queries; want 1", tokens.Load())
	}
}

func TestConnectionsAreReusedUntilClose(t *testing.T) {
	var opened, closed atomic.Int32
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w, 200, matrixBody) }))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			opened.Add(1)
		case http.StateClosed:
			closed.Add(1)
		}
	}
	srv.Start()
	t.Cleanup(srv.Close)
	c := newClient(t, Options{URL: srv.URL, Params: url.Values{"a": {"b"}}})
	for range 10 {
		wantSeries(t, c)
	}
	if opened.Load() != 1 || closed.Load() != 0 {
		t.Errorf("%d connections opened, %d closed for 10 queries; want 1 and 0", opened.Load(), closed.Load())
	}
	c.Close()
	for i := 0; closed.Load() != 1; i++ {
		if i == 500 {
			t.Fatal("Close left the idle connection open")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	good := "http://127.0.0.1:9090"
	for name, row := range map[string]struct {
		options Options
		want    string
	}{
		"no URL":                     {Options{}, "url: missing"},
		"a URL that does not parse":  {Options{URL: "http://me:hunter2@[::1"}, "url: does not parse"},
		"a URL without a scheme":     {Options{URL: "prometheus:9090"}, `scheme "prometheus"; want http or https`},
		"a URL of another scheme":    {Options{URL: "ftp://me:hunter2@prometheus"}, `"ftp://prometheus" has the scheme "ftp"`},
		"a URL without a host":       {Options{URL: "http:///api"}, "has no host"},
		"a URL with a query":         {Options{URL: good + "?token=hunter2"}, "want query parameters under params"},
		"two ways to authenticate":   {Options{URL: good, HTTPClient: config.HTTPClientConfig{BearerToken: "hunter2", BasicAuth: &config.BasicAuth{}}}, "http_client: at most one of"},
		"a CA file that is not here": {Options{URL: good, HTTPClient: config.HTTPClientConfig{TLSConfig: config.TLSConfig{CAFile: "/nowhere/ca.pem"}}}, "/nowhere/ca.pem"},
		"a parameter of queries":     {Options{URL: good, Params: url.Values{"step": {"1"}}}, `params: "step" is a parameter of the query itself`},
		"a timeout out of range":     {Options{URL: good, Timeout: -1}, "timeout: -1ns"},
		"no concurrency":             {Options{URL: good, MaxConcurrent: -1}, "max_concurrent: -1"},
		"too many attempts":          {Options{URL: good, MaxAttempts: 1000}, "max_attempts: 1000"},
		"more points than allowed":   {Options{URL: good, MaxPoints: 11_001}, "max_points: 11001"},
		"negative series":            {Options{URL: good, MaxSeries: -1}, "max_series: -1"},
		"two faults, the second too": {Options{MaxSeries: -1, MaxPoints: -1}, "max_points: -1"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(row.options)
			if err == nil || !strings.Contains(err.Error(), row.want) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("New = %v; want %q and no secret", err, row.want)
			}
		})
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	body := strings.Replace(matrixBody, `"values"`, `"histograms":[[1772366400,{"count":"1","sum":"1","buckets":[]}]],"values"`, 1)
	status := http.StatusOK
	n := network(func(*http.Request) (*http.Response, error) { return response(status, body), nil })
	c := newClient(t, Options{URL: "http://p", Registerer: reg, transport: n, MaxAttempts: 2})
	after := newClient(t, Options{URL: "http://q", Registerer: reg, transport: n, MaxAttempts: 2}) // As after a reload.
	wantSeries(t, c)
	wantSeries(t, after)
	status = http.StatusServiceUnavailable
	if err := c.Check(t.Context(), "load"); !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
	const want = `
# HELP kubeforecaster_prometheus_histogram_samples_skipped_total Native histogram samples in answers of Prometheus, which cannot be forecast.
# TYPE kubeforecaster_prometheus_histogram_samples_skipped_total counter
kubeforecaster_prometheus_histogram_samples_skipped_total 2
# HELP kubeforecaster_prometheus_queries_total Queries of Prometheus by outcome, each counted once however often it was split or retried.
# TYPE kubeforecaster_prometheus_queries_total counter
kubeforecaster_prometheus_queries_total{outcome="bad_answer"} 0
kubeforecaster_prometheus_queries_total{outcome="bad_query"} 0
kubeforecaster_prometheus_queries_total{outcome="canceled"} 0
kubeforecaster_prometheus_queries_total{outcome="error"} 0
kubeforecaster_prometheus_queries_total{outcome="no_data"} 0
kubeforecaster_prometheus_queries_total{outcome="partial"} 0
kubeforecaster_prometheus_queries_total{outcome="success"} 2
kubeforecaster_prometheus_queries_total{outcome="too_large"} 0
kubeforecaster_prometheus_queries_total{outcome="unauthorized"} 0
kubeforecaster_prometheus_queries_total{outcome="unavailable"} 1
kubeforecaster_prometheus_queries_total{outcome="unreachable"} 0
# HELP kubeforecaster_prometheus_retries_total Requests to Prometheus that were sent again after they had failed.
# TYPE kubeforecaster_prometheus_retries_total counter
kubeforecaster_prometheus_retries_total 1
# HELP kubeforecaster_prometheus_warnings_total Warnings that came with answers of Prometheus, such as of partial data.
# TYPE kubeforecaster_prometheus_warnings_total counter
kubeforecaster_prometheus_warnings_total 0
`
	names := []string{
		"kubeforecaster_prometheus_histogram_samples_skipped_total", "kubeforecaster_prometheus_queries_total",
		"kubeforecaster_prometheus_retries_total", "kubeforecaster_prometheus_warnings_total",
	}
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), names...); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("metrics are ill formed: %v %v", problems, err)
	}
	taken := prometheus.NewRegistry()
	taken.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "kubeforecaster_prometheus_retries_total", Help: "Something else."}))
	if _, err := New(Options{URL: "http://p", Registerer: taken}); err == nil || !strings.Contains(err.Error(), "register metrics") {
		t.Errorf("New with a name that is taken = %v; want an error", err)
	}
}

func TestWarningsAreCountedAndLoggedNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body := strings.Replace(matrixBody, `"data"`, `"warnings":["partial response","store-1 is down"],"data"`, 1)
		logged := &strings.Builder{}
		c := newClient(t, Options{
			AllowPartial: true,
			URL:          "http://p", MaxPoints: 1,
			Logger:    slog.New(slog.NewTextHandler(logged, nil)),
			transport: network(func(*http.Request) (*http.Response, error) { return response(200, body), nil }),
		})
		lines := func() int { return strings.Count(logged.String(), "\n") }
		wantSeries(t, c) // Two requests, one line.
		wantSeries(t, c) // Nothing new.
		if lines() != 1 || !strings.Contains(logged.String(), `expr=load warnings="[partial response store-1 is down]"`) {
			t.Errorf("logged:\n%s\nwant one line", logged)
		}
		time.Sleep(time.Minute)
		wantSeries(t, c)
		if lines() != 2 || testutil.ToFloat64(c.metrics.warnings) != 12 {
			t.Errorf("%d lines and %v warnings a minute later; want 2 and 12", lines(), testutil.ToFloat64(c.metrics.warnings))
		}
	})
}

func TestWhatWasSaidIsForgottenBeforeItFillsMemory(t *testing.T) {
	r := repeats{every: time.Minute}
	for i := range 10 * maxRepeats {
		if r.seen(fmt.Sprint(i), t0) {
			t.Errorf("%d was seen before", i)
		}
	}
	if len(r.last) > maxRepeats {
		t.Errorf("%d remembered; want at most %d", len(r.last), maxRepeats)
	}
}

// The tests below are against Prometheus itself.

func startPrometheus(t testing.TB, o embedded.Options) *embedded.Server {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	s, err := embedded.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// load is a series that counts the steps since t0.
func load(pod string, step time.Duration, n int) embedded.Series {
	s := embedded.Series{Labels: map[string]string{"__name__": "load", "pod": pod}}
	for i := range n {
		s.Times = append(s.Times, t0.Add(time.Duration(i)*step).UnixMilli())
		s.Values = append(s.Values, float64(i))
	}
	return s
}

func TestSplittingChangesNothing(t *testing.T) {
	s := startPrometheus(t, embedded.Options{})
	const n, step = 25_000, 10 * time.Second // 69 hours.
	late := load("late", step, n)
	late.Times, late.Values = late.Times[12_000:], late.Values[12_000:]
	early := load("early", step, 5_000)
	early.Values[4_999] = embedded.StaleMarker()
	if err := s.Append(t.Context(), []embedded.Series{load("whole", step, n), late, early}); err != nil {
		t.Fatal(err)
	}
	r := forecaster.Range{Start: t0, End: t0.Add((n - 1) * step), Step: step}
	query := func(o Options, expr string, r forecaster.Range) []forecaster.Series {
		o.URL = s.URL()
		ss, err := newClient(t, o).QueryRange(t.Context(), expr, r)
		if err != nil {
			t.Fatal(err)
		}
		return ss
	}

	// What the numbers must be.
	whole := query(Options{}, "load", r)
	if len(whole) != 3 {
		t.Fatalf("%d series; want 3", len(whole))
	}
	for i, want := range []struct {
		pod         model.LabelValue
		first, last int // grid points with numbers
	}{{"early", 0, 4_998}, {"late", 12_000, n - 1}, {"whole", 0, n - 1}} {
		if whole[i].Labels["pod"] != want.pod || len(whole[i].Values) != n {
			t.Fatalf("series %d is %v of %d values; want pod %s of %d", i, whole[i].Labels, len(whole[i].Values), want.pod, n)
		}
		for j, v := range whole[i].Values {
			if w := float64(j); (j < want.first || j > want.last) != (v != v) || v == v && v != w {
				t.Fatalf("pod %s at %d: %v", want.pod, j, v)
			}
		}
	}

	// As one query gives it: 9,000 points in one piece and in many.
	short := forecaster.Range{Start: t0.Add(3 * time.Hour), End: t0.Add(28*time.Hour - step), Step: step}
	expr := "sum without (pod) (rate(load[5m])) or load > 4990"
	one := query(Options{}, expr, short)
	for _, points := range []int{8_999, 1_000, 97} {
		if diff := cmp.Diff(one, query(Options{MaxPoints: points}, expr, short), cmpopts.EquateNaNs()); diff != "" {
			t.Errorf("in parts of %d points (-one query +joined):\n%s", points, diff)
		}
	}
}

func TestErrorsOfPrometheusItself(t *testing.T) {
	s := startPrometheus(t, embedded.Options{})
	b := load("b", time.Minute, 3)
	b.Labels["__name__"] = "other"
	if err := s.Append(t.Context(), []embedded.Series{load("a", time.Minute, 3), load("b", time.Minute, 3), b}); err != nil {
		t.Fatal(err)
	}
	c := newClient(t, Options{URL: s.URL()})
	for name, row := range map[string]struct {
		expr string
		want error
		text string
	}{
		"an expression that does not parse":  {"sum(load", ErrBadQuery, "1:9: parse error: unclosed left parenthesis"},
		"an expression that is empty":        {"", ErrBadQuery, "no expression found"},
		"an expression that cannot be run":   {"load + on () load", ErrBadQuery, "many-to-many matching not allowed"},
		"a range vector":                     {"load[5m]", ErrBadQuery, "invalid expression type"},
		"a selector of nothing":              {"nothing", forecaster.ErrNoData, "no series"},
		"metrics that are alike but by name": {`{__name__=~"load|other",pod="b"}`, ErrBadQuery, `"load" and "other"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.QueryRange(t.Context(), row.expr, minutes(3))
			if !errors.Is(err, row.want) || !strings.Contains(err.Error(), row.text) {
				t.Errorf("error = %v; want %v with %q", err, row.want, row.text)
			}
		})
	}
	if got := testutil.ToFloat64(c.metrics.retries); got != 0 {
		t.Errorf("%v retries; want none", got)
	}
}

func TestCheck(t *testing.T) {
	s := startPrometheus(t, embedded.Options{})
	c := newClient(t, Options{URL: s.URL()})
	for expr, row := range map[string]struct {
		want error
		text string
	}{
		`sum by (namespace) (load)`: {},
		`42`:                        {},
		`sum(`:                      {ErrBadQuery, "1:5: parse error"},
		`load[5m]`:                  {ErrBadQuery, "it gives a matrix; want an expression that gives an instant vector"},
		`"text"`:                    {ErrBadAnswer, `unexpected value type "string"`},
	} {
		err := c.Check(t.Context(), expr)
		if !errors.Is(err, row.want) || err != nil && !strings.Contains(err.Error(), row.text) {
			t.Errorf("Check(%s) = %v; want %v with %q", expr, err, row.want, row.text)
		}
	}
}

func TestAScalarIsASeriesWithoutLabels(t *testing.T) {
	s := startPrometheus(t, embedded.Options{})
	got, err := newClient(t, Options{URL: s.URL()}).QueryRange(t.Context(), "42", minutes(2))
	want := []forecaster.Series{{Labels: model.Metric{}, Start: t0, Step: time.Minute, Values: []float64{42, 42}}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("series (-want +got):\n%s%v", diff, err)
	}
}

func TestItRecoversWithPrometheus(t *testing.T) {
	dir := t.TempDir()
	s := startPrometheus(t, embedded.Options{Dir: dir})
	if err := s.Append(t.Context(), []embedded.Series{{
		Labels: map[string]string{"__name__": "load", "pod": "a"},
		Times:  []int64{t0.UnixMilli(), t0.Add(time.Minute).UnixMilli()}, Values: []float64{1, 2},
	}}); err != nil {
		t.Fatal(err)
	}
	c := newClient(t, Options{URL: s.URL()})
	wantSeries(t, c)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.QueryRange(t.Context(), "load", minutes(2)); !errors.Is(err, ErrUnreachable) {
		t.Errorf("without Prometheus: %v; want ErrUnreachable", err)
	}
	startPrometheus(t, embedded.Options{Dir: dir, Listen: strings.TrimPrefix(s.URL(), "http://")})
	wantSeries(t, c)
}
