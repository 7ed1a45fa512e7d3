package prom

import (
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what the client tells about itself.
type metrics struct {
	queries    *prometheus.CounterVec // by outcome
	duration   prometheus.Histogram
	retries    prometheus.Counter
	warnings   prometheus.Counter
	histograms prometheus.Counter
}

// newMetrics registers the metrics with reg, which may be nil. Where an earlier
// client has registered them, both count in the same ones, as before and after
// a reload.
func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		queries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kubeforecaster_prometheus_queries_total",
			Help: "Queries of Prometheus by outcome, each counted once however often it was split or retried.",
		}, []string{"outcome"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "kubeforecaster_prometheus_query_duration_seconds",
			Help:    "How long queries of Prometheus took, with waiting, splitting and retries.",
			Buckets: []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60},
		}),
		retries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kubeforecaster_prometheus_retries_total",
			Help: "Requests to Prometheus that were sent again after they had failed.",
		}),
		warnings: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kubeforecaster_prometheus_warnings_total",
			Help: "Warnings that came with answers of Prometheus, such as of partial data.",
		}),
		histograms: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kubeforecaster_prometheus_histogram_samples_skipped_total",
			Help: "Native histogram samples in answers of Prometheus, which cannot be forecast.",
		}),
	}
	err := errors.Join(
		register(reg, &m.queries), register(reg, &m.duration), register(reg, &m.retries),
		register(reg, &m.warnings), register(reg, &m.histograms))
	if err != nil {
		return nil, err
	}
	m.queries.WithLabelValues(outcomeSuccess)
	m.queries.WithLabelValues(outcomeOther)
	for _, o := range outcomes {
		m.queries.WithLabelValues(o.name)
	}
	return m, nil
}

// register registers *c, or puts the collector that is registered already in
// its place.
func register[C prometheus.Collector](reg prometheus.Registerer, c *C) error {
	if reg == nil {
		return nil
	}
	err := reg.Register(*c)
	if are, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if was, ok := are.ExistingCollector.(C); ok {
			*c = was
			return nil
		}
	}
	return err
}

// observe counts a query that ended now.
func (m *metrics) observe(began time.Time, err error) {
	m.queries.WithLabelValues(outcome(err)).Inc()
	m.duration.Observe(time.Since(began).Seconds())
}

// repeats remembers for a while what has been said, so that each thing is said
// once in that while.
type repeats struct {
	every time.Duration

	mu   sync.Mutex
	last map[string]time.Time
}

// maxRepeats bounds what is remembered.
const maxRepeats = 256

// seen reports whether s was asked about within the last while, and remembers
// it otherwise.
func (r *repeats) seen(s string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at, ok := r.last[s]; ok && now.Sub(at) < r.every {
		return true
	}
	if r.last == nil || len(r.last) >= maxRepeats {
		r.last = make(map[string]time.Time)
	}
	r.last[s] = now
	return false
}
