package adapter

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/model"

	"github.com/kubeforecaster/kubeforecaster/forecaster"
)

func newTestCollector(t testing.TB, store *forecaster.Store, now time.Time) *Collector {
	t.Helper()
	c, err := NewCollector(CollectorOptions{Store: store, Now: at(now)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCollectorExportsWhatIsServed(t *testing.T) {
	store := new(forecaster.Store)
	store.SetRules([]forecaster.Rule{testRule("predicted_cpu_cores"), testRule("predicted_memory_bytes")})
	store.Put("predicted_cpu_cores", []forecaster.Forecast{
		testForecast(100, workload("shop", "web")),
		aged(testForecast(200, workload("shop", "old")), 6*time.Minute),
	})
	const want = `
# HELP kubeforecaster_forecast Peak of the quantile that is expected from now until the horizon, in the unit of the metric.
# TYPE kubeforecaster_forecast gauge
kubeforecaster_forecast{horizon="12m",metric="predicted_cpu_cores",namespace="shop",quantile="0.5",workload="web",workload_kind="Deployment"} 121
kubeforecaster_forecast{horizon="12m",metric="predicted_cpu_cores",namespace="shop",quantile="0.9",workload="web",workload_kind="Deployment"} 131
kubeforecaster_forecast{horizon="12m",metric="predicted_cpu_cores",namespace="shop",quantile="0.95",workload="web",workload_kind="Deployment"} 141
kubeforecaster_forecast{horizon="5m",metric="predicted_cpu_cores",namespace="shop",quantile="0.5",workload="web",workload_kind="Deployment"} 114
kubeforecaster_forecast{horizon="5m",metric="predicted_cpu_cores",namespace="shop",quantile="0.9",workload="web",workload_kind="Deployment"} 124
kubeforecaster_forecast{horizon="5m",metric="predicted_cpu_cores",namespace="shop",quantile="0.95",workload="web",workload_kind="Deployment"} 134
# HELP kubeforecaster_forecast_duplicate_series Number of series with a fresh forecast that are not exported as series because another has the same labels.
# TYPE kubeforecaster_forecast_duplicate_series gauge
kubeforecaster_forecast_duplicate_series{metric="predicted_cpu_cores"} 0
kubeforecaster_forecast_duplicate_series{metric="predicted_memory_bytes"} 0
# HELP kubeforecaster_forecast_origin_timestamp_seconds Time of the newest sample that a forecast was made from.
# TYPE kubeforecaster_forecast_origin_timestamp_seconds gauge
kubeforecaster_forecast_origin_timestamp_seconds{metric="predicted_cpu_cores"} 1.7724528e+09
# HELP kubeforecaster_forecast_series Number of series with a fresh forecast.
# TYPE kubeforecaster_forecast_series gauge
kubeforecaster_forecast_series{metric="predicted_cpu_cores"} 1
kubeforecaster_forecast_series{metric="predicted_memory_bytes"} 0
# HELP kubeforecaster_forecast_stale_series Number of series whose forecast is too old to be served.
# TYPE kubeforecaster_forecast_stale_series gauge
kubeforecaster_forecast_stale_series{metric="predicted_cpu_cores"} 1
kubeforecaster_forecast_stale_series{metric="predicted_memory_bytes"} 0
`
	if err := testutil.CollectAndCompare(newTestCollector(t, store, t0), strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}

func TestCollectorExportsEachViewOnce(t *testing.T) {
	r := testRule("m")
	r.Lead, r.Level = r.Horizon, 0.5
	store := new(forecaster.Store)
	store.SetRules([]forecaster.Rule{r})
	store.Put("m", []forecaster.Forecast{testForecast(1, nil)})
	const want = `
# HELP kubeforecaster_forecast Peak of the quantile that is expected from now until the horizon, in the unit of the metric.
# TYPE kubeforecaster_forecast gauge
kubeforecaster_forecast{horizon="12m",metric="m",quantile="0.5"} 22
kubeforecaster_forecast{horizon="12m",metric="m",quantile="0.95"} 42
`
	if err := testutil.CollectAndCompare(newTestCollector(t, store, t0), strings.NewReader(want), "kubeforecaster_forecast"); err != nil {
		t.Error(err)
	}
}

func TestCollectorSurvivesAnyLabels(t *testing.T) {
	store := new(forecaster.Store)
	r := testRule("m")
	r.Level, r.Lead = 0.5, r.Horizon
	store.SetRules([]forecaster.Rule{r})
	store.Put("m", []forecaster.Forecast{
		testForecast(1, model.Metric{"__name__": "x", "__tmp": "y", "horizon": "h", "metric": "m", "quantile": "q", "empty": ""}),
		testForecast(2, model.Metric{"app.kubernetes.io/name": "web", "1st": "one", "ü": "u"}),
		testForecast(3, model.Metric{"app_kubernetes_io_name": "web", "_1st": "one", "_": "u"}),
		testForecast(4, model.Metric{"bytes": "\xff", "A": "a"}),
		testForecast(5, model.Metric{"a.b": "first", "a_b": "second"}),
	})
	const want = `
# HELP kubeforecaster_forecast Peak of the quantile that is expected from now until the horizon, in the unit of the metric.
# TYPE kubeforecaster_forecast gauge
kubeforecaster_forecast{a_b="second",horizon="12m",metric="m",quantile="0.5"} 26
kubeforecaster_forecast{a_b="second",horizon="12m",metric="m",quantile="0.95"} 46
kubeforecaster_forecast{A="a",bytes="�",horizon="12m",metric="m",quantile="0.5"} 25
kubeforecaster_forecast{A="a",bytes="�",horizon="12m",metric="m",quantile="0.95"} 45
kubeforecaster_forecast{exported_horizon="h",exported_metric="m",exported_quantile="q",horizon="12m",metric="m",quantile="0.5"} 22
kubeforecaster_forecast{exported_horizon="h",exported_metric="m",exported_quantile="q",horizon="12m",metric="m",quantile="0.95"} 42
kubeforecaster_forecast{_="u",_1st="one",app_kubernetes_io_name="web",horizon="12m",metric="m",quantile="0.5"} 23
kubeforecaster_forecast{_="u",_1st="one",app_kubernetes_io_name="web",horizon="12m",metric="m",quantile="0.95"} 43
# HELP kubeforecaster_forecast_duplicate_series Number of series with a fresh forecast that are not exported as series because another has the same labels.
# TYPE kubeforecaster_forecast_duplicate_series gauge
kubeforecaster_forecast_duplicate_series{metric="m"} 1
`
	c := newTestCollector(t, store, t0)
	err := testutil.CollectAndCompare(c, strings.NewReader(want), "kubeforecaster_forecast", "kubeforecaster_forecast_duplicate_series")
	if err != nil {
		t.Error(err)
	}
}

func TestCollectorNeedsAStore(t *testing.T) {
	if _, err := NewCollector(CollectorOptions{}); err == nil {
		t.Error("a collector without a store was made")
	}
}

func BenchmarkCollect(b *testing.B) {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(newTestCollector(b, manyStore(10_000), t0))
	b.ReportAllocs()
	for b.Loop() {
		families, err := registry.Gather()
		if err != nil || len(families[0].GetMetric()) != 60_000 {
			b.Fatalf("gathered %d families, %v; want 60,000 forecasts first", len(families), err)
		}
	}
}
