package adapter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"html/template"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/swaggest/swgui/v5emb"

	"github.com/kubeforecaster/kubeforecaster/forecaster"
)

// Defaults of HandlerOptions.
const (
	DefaultPredictTimeout  = 10 * time.Second
	DefaultMaxPredictions  = 4
	defaultReloadTimeout   = time.Minute
	maxConcurrentGatherers = 4
)

// HandlerOptions are what the handler of the plain port is made of.
type HandlerOptions struct {
	Store    *forecaster.Store           // required
	Model    func() forecaster.Model     // the model in service, or nil while there is none; required
	Gatherer prometheus.Gatherer         // what /metrics shows; required
	Ready    func() error                // nil error: ready; each line of an error is a reason. Always ready when nil
	Reload   func(context.Context) error // re-reads the configuration; no /-/reload when nil

	Version        string                // of the program, for the OpenAPI document
	Logger         *slog.Logger          // discards when nil
	Registerer     prometheus.Registerer // for the handler's own metrics; none when nil
	Now            func() time.Time      // time.Now when nil
	PredictTimeout time.Duration         // of a model run of POST /predict
	MaxPredictions int                   // model runs of POST /predict at a time; more are refused with 503
}

// handler holds what the handlers of the plain port share.
type handler struct {
	opts       HandlerOptions
	predicting chan struct{} // one element per model run
	reloading  sync.Mutex    // one reload at a time
}

// NewHandler returns the handler of the plain port: the REST API with its
// documentation, /metrics and the paths below /-/ for operators.
//
//	GET  /                   links to the rest
//	POST /predict            forecast of two series that are sent along
//	GET  /health             {"status":"OK"}
//	GET  /api/v1/forecasts   forecasts that are served
//	GET  /openapi.json       the REST API, OpenAPI 3.1; also /openapi.yaml
//	GET  /docs               the same to read and try, from embedded assets
//	GET  /metrics            Prometheus and OpenMetrics text
//	GET  /-/healthy          200 while the program runs
//	GET  /-/ready            200, or 503 with one reason a line
//	POST /-/reload           200, or 500 with the error; the old configuration stays
//
// There is no authentication: the port is for the cluster's inside. Requests
// that a browser makes for another site and that are no reads are refused.
func NewHandler(o HandlerOptions) (http.Handler, error) {
	if o.Store == nil || o.Model == nil || o.Gatherer == nil {
		return nil, errors.New("HTTP handler: Store, Model and Gatherer are required")
	}
	o.Version = cmp.Or(o.Version, "unversioned")
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	o.PredictTimeout = cmp.Or(o.PredictTimeout, DefaultPredictTimeout)
	o.MaxPredictions = max(cmp.Or(o.MaxPredictions, DefaultMaxPredictions), 1)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Ready == nil {
		o.Ready = func() error { return nil }
	}
	h := &handler{opts: o, predicting: make(chan struct{}, o.MaxPredictions)}
	mux := http.NewServeMux()
	h.registerAPI(mux)
	h.registerAdmin(mux)
	metrics, err := newHTTPMetrics(o.Registerer)
	if err != nil {
		return nil, fmt.Errorf("HTTP handler: %w", err)
	}
	return metrics.instrument(http.NewCrossOriginProtection().Handler(mux)), nil
}

// NewServer returns a server for the plain port with bounds on the time that
// every part of a request may take and on the size of its header.
func NewServer(addr string, h http.Handler, logger *slog.Logger) *http.Server {
	logger = cmp.Or(logger, slog.New(slog.DiscardHandler))
	return &http.Server{
		Addr:              addr,
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      90 * time.Second, // more than a reload may take
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
}

func (h *handler) registerAdmin(mux *http.ServeMux) {
	mux.HandleFunc("GET /{$}", h.root)
	mux.Handle("GET /docs/", v5emb.New("kubeforecaster", "/openapi.json", "/docs/"))
	mux.Handle("GET /docs", http.RedirectHandler("/docs/", http.StatusMovedPermanently))
	mux.Handle("GET /metrics", promhttp.HandlerFor(h.opts.Gatherer, promhttp.HandlerOpts{
		ErrorLog:            promLog{h.opts.Logger},
		ErrorHandling:       promhttp.ContinueOnError, // One faulty collector must not hide the others.
		Registry:            h.opts.Registerer,
		MaxRequestsInFlight: maxConcurrentGatherers,
		EnableOpenMetrics:   true,
	}))
	mux.HandleFunc("GET /-/healthy", func(w http.ResponseWriter, _ *http.Request) {
		h.text(w, http.StatusOK, "healthy")
	})
	mux.HandleFunc("GET /-/ready", h.ready)
	if h.opts.Reload != nil {
		mux.HandleFunc("POST /-/reload", h.reload)
	}
}

func (h *handler) ready(w http.ResponseWriter, _ *http.Request) {
	if err := h.opts.Ready(); err != nil {
		h.text(w, http.StatusServiceUnavailable, "not ready\n"+err.Error())
		return
	}
	h.text(w, http.StatusOK, "ready")
}

// reload answers as Prometheus does, so that the sidecars that watch a config
// map understand it.
func (h *handler) reload(w http.ResponseWriter, r *http.Request) {
	h.reloading.Lock()
	defer h.reloading.Unlock()
	ctx, cancel := context.WithTimeout(r.Context(), defaultReloadTimeout)
	defer cancel()
	if err := h.opts.Reload(ctx); err != nil { // Logged by whoever reloads.
		h.text(w, http.StatusInternalServerError, "reload failed; the old configuration stays\n"+err.Error())
		return
	}
	h.text(w, http.StatusOK, "reloaded")
}

var rootPage = template.Must(template.New("root").Parse(`<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>kubeforecaster</title></head>
<body>
<h1>kubeforecaster</h1>
<p>Version {{.}}</p>
<ul>
<li><a href="/api/v1/forecasts">Forecasts</a></li>
<li><a href="/docs/">REST API</a> (<a href="/openapi.json">JSON</a>, <a href="/openapi.yaml">YAML</a>)</li>
<li><a href="/metrics">Metrics</a></li>
<li><a href="/-/ready">Ready</a>, <a href="/-/healthy">healthy</a>, <a href="/health">health</a></li>
</ul>
</body>
</html>
`))

func (h *handler) root(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if err := rootPage.Execute(w, h.opts.Version); err != nil {
		h.opts.Logger.Debug("Writing an answer failed", "err", err)
	}
}

func (h *handler) text(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	if _, err := io.WriteString(w, text+"\n"); err != nil {
		h.opts.Logger.Debug("Writing an answer failed", "err", err)
	}
}

// promLog takes the errors of promhttp.
type promLog struct{ logger *slog.Logger }

// Println logs what a scrape ran into.
func (l promLog) Println(v ...any) {
	l.logger.Warn("Scrape of own metrics met an error", "err", strings.TrimSpace(fmt.Sprintln(v...)))
}

// httpMetrics count and time the requests of the plain port by handler, which is
// the pattern that a request matched and so one of few.
type httpMetrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

func newHTTPMetrics(r prometheus.Registerer) (httpMetrics, error) {
	m := httpMetrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kubeforecaster_http_requests_total",
			Help: "Requests answered on the plain port, by handler and status code.",
		}, []string{"handler", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "kubeforecaster_http_request_duration_seconds",
			Help:    "Time that requests on the plain port took, by handler.",
			Buckets: []float64{0.001, 0.01, 0.1, 1, 10},
		}, []string{"handler"}),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.requests, m.duration} {
		if err := r.Register(c); err != nil {
			return httpMetrics{}, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}

func (m httpMetrics) instrument(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		recorder := &statusRecorder{ResponseWriter: w}
		defer func() {
			// The pattern is known after the multiplexer has seen the request. A
			// handler that panicked is counted as well.
			name := handlerName(r.Pattern)
			m.requests.WithLabelValues(name, recorder.code()).Inc()
			m.duration.WithLabelValues(name).Observe(time.Since(start).Seconds())
		}()
		next.ServeHTTP(recorder, r)
	})
}

// handlerName is the path of a pattern such as "GET /health".
func handlerName(pattern string) string {
	if pattern == "" {
		return "none"
	}
	_, path, ok := strings.Cut(pattern, " ")
	if !ok {
		path = pattern
	}
	return strings.TrimSuffix(path, "{$}")
}

// statusRecorder remembers the status code of an answer.
type statusRecorder struct {
	http.ResponseWriter
	status int
}

// WriteHeader sends the status code.
func (r *statusRecorder) WriteHeader(status int) {
	r.status = cmp.Or(r.status, status)
	r.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the connection.
func (r *statusRecorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (r *statusRecorder) code() string {
	return fmt.Sprintf("%03d", cmp.Or(r.status, http.StatusOK))
}
