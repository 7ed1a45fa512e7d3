package forecaster

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Outcomes of a tick, as the label of kubeforecaster_ticks_total.
const (
	outcomeOK     = "ok"
	outcomeNoData = "no_data"
	outcomeError  = "error"
)

// metrics are what the manager tells of itself.
type metrics struct {
	ticks       *prometheus.CounterVec
	duration    *prometheus.HistogramVec
	lastSuccess *prometheus.GaugeVec
	series      *prometheus.GaugeVec
	source      *prometheus.GaugeVec
	refused     *prometheus.CounterVec
	model       *prometheus.GaugeVec
}

// newMetrics registers the manager's metrics; a nil registerer keeps them
// unregistered.
func newMetrics(r prometheus.Registerer) *metrics {
	f := promauto.With(r)
	return &metrics{
		ticks: f.NewCounterVec(prometheus.CounterOpts{
			Name: "kubeforecaster_ticks_total",
			Help: "Ticks of a rule by outcome: ok, no_data (the query selected nothing) or error (older forecasts stay until they expire).",
		}, []string{"metric", "outcome"}),
		duration: f.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "kubeforecaster_tick_duration_seconds",
			Help:    "Time that a tick of a rule took, by phase: query or predict.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 9),
		}, []string{"metric", "phase"}),
		lastSuccess: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "kubeforecaster_last_tick_success_timestamp_seconds",
			Help: "Time of the last tick of a rule whose query succeeded.",
		}, []string{"metric"}),
		series: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "kubeforecaster_history_series",
			Help: "Series whose history is held for a rule.",
		}, []string{"metric"}),
		source: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "kubeforecaster_forecast_source",
			Help: "Series of a rule by the model that made their newest forecast.",
		}, []string{"metric", "model"}),
		refused: f.NewCounterVec(prometheus.CounterOpts{
			Name: "kubeforecaster_forecasts_refused_total",
			Help: "Forecasts that a model failed to make, or that were not served because they were not finite or their quantiles crossed; the fallback stands in.",
		}, []string{"metric", "model"}),
		model: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "kubeforecaster_model_info",
			Help: "The model in service; always 1.",
		}, []string{"version"}),
	}
}

// forget drops the series of a metric that no rule makes any more.
func (m *metrics) forget(metric string) {
	by := prometheus.Labels{"metric": metric}
	m.ticks.DeletePartialMatch(by)
	m.duration.DeletePartialMatch(by)
	m.lastSuccess.DeletePartialMatch(by)
	m.series.DeletePartialMatch(by)
	m.source.DeletePartialMatch(by)
	m.refused.DeletePartialMatch(by)
}
