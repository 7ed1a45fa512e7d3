package adapter

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/kubeforecaster/kubeforecaster/forecaster"
)

// t0 is the origin of the forecasts in tests.
var t0 = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

// at is a clock that stands still.
func at(t time.Time) func() time.Time { return func() time.Time { return t } }

// testRule has a step of 1m, a lead of 5m, a horizon of 12m, the level 0.9 and a
// maximal age of 5m.
func testRule(metric string) forecaster.Rule {
	return forecaster.Rule{Metric: metric, Expr: "up"}.WithDefaults()
}

// testForecast expects base + 10*i + j for level i of 0.1, 0.5, 0.9, 0.95, 0.99
// and step j of 0 to 11.
func testForecast(base float64, ls model.Metric) forecaster.Forecast {
	f := forecaster.Forecast{
		Labels: ls, Origin: t0, Step: time.Minute, Levels: forecaster.Levels(), Observed: base, Model: "test-1",
	}
	for i := range f.Levels {
		q := make([]float64, forecaster.HorizonSteps)
		for j := range q {
			q[j] = base + 10*float64(i) + float64(j)
		}
		f.Quantiles = append(f.Quantiles, q)
	}
	return f
}

// aged returns f as if it had been made earlier.
func aged(f forecaster.Forecast, age time.Duration) forecaster.Forecast {
	f.Origin = f.Origin.Add(-age)
	return f
}

func workload(namespace, name string) model.Metric {
	return model.Metric{"namespace": model.LabelValue(namespace), "workload": model.LabelValue(name), "workload_kind": "Deployment"}
}

// testStore holds two workloads in shop, one in batch, and one of no namespace.
func testStore() *forecaster.Store {
	store := new(forecaster.Store)
	store.SetRules([]forecaster.Rule{testRule("predicted_memory_bytes"), testRule("predicted_cpu_cores")})
	store.Put("predicted_cpu_cores", []forecaster.Forecast{
		testForecast(500, model.Metric{"queue": "orders"}),
		testForecast(300, workload("batch", "report")),
		testForecast(100, workload("shop", "api")),
		testForecast(200, workload("shop", "web")),
	})
	return store
}

// manyStore holds n workloads in n/100 namespaces, at least one.
func manyStore(n int) *forecaster.Store {
	store := new(forecaster.Store)
	store.SetRules([]forecaster.Rule{testRule("predicted_cpu_cores")})
	fs := make([]forecaster.Forecast, n)
	for i := range fs {
		fs[i] = testForecast(float64(i), workload(fmt.Sprintf("ns-%03d", i/100), fmt.Sprintf("app-%05d", i)))
	}
	store.Put("predicted_cpu_cores", fs)
	return store
}

func selector(t testing.TB, text string) labels.Selector {
	t.Helper()
	sel, err := labels.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return sel
}

// predictFunc is a model that is one function.
type predictFunc func(context.Context, []forecaster.Window) ([]forecaster.Forecast, error)

func (predictFunc) Version() string { return "stub-1" }

func (predictFunc) Shape() forecaster.Shape {
	return forecaster.Shape{MinSteps: 2, Steps: 60, Horizon: forecaster.HorizonSteps, Levels: forecaster.Levels()}
}

func (f predictFunc) Predict(ctx context.Context, ws []forecaster.Window) ([]forecaster.Forecast, error) {
	return f(ctx, ws)
}
