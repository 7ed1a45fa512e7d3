package adapter

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/model"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/metrics/pkg/apis/external_metrics"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/provider"

	"github.com/kubeforecaster/kubeforecaster/forecaster"
)

func newTestProvider(t testing.TB, store *forecaster.Store, now time.Time) *Provider {
	t.Helper()
	p, err := NewProvider(ProviderOptions{Store: store, Now: at(now)})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var cpu = provider.ExternalMetricInfo{Metric: "predicted_cpu_cores"}

// valuesOf gives the items as "workload=value" or "queue=value".
func valuesOf(list *external_metrics.ExternalMetricValueList) []string {
	out := []string{}
	for _, item := range list.Items {
		name := item.MetricLabels["workload"] + item.MetricLabels["queue"]
		out = append(out, fmt.Sprintf("%s=%s", name, item.Value.String()))
	}
	return out
}

func TestProviderAnswersWithTheRulesView(t *testing.T) {
	tests := []struct {
		name, namespace, selector string
		now                       time.Time
		want                      []string
	}{
		{"without a selector, every series of the namespace at the rule's lead and level", "shop", "", t0, []string{"api=124", "web=224"}},
		{"equality chooses one series", "shop", "workload=web", t0, []string{"web=224"}},
		{"set operators work", "shop", "workload in (web,x),workload_kind notin (Job)", t0, []string{"web=224"}},
		{"existence works", "shop", "workload,!pod", t0, []string{"api=124", "web=224"}},
		{"horizon reaches further", "shop", "workload=web,horizon=12m", t0, []string{"web=231"}},
		{"quantile 0.5 is lower", "shop", "workload=web,quantile=0.5", t0, []string{"web=214"}},
		{"quantile 0.95 is higher", "shop", "workload=web,quantile=0.95", t0, []string{"web=234"}},
		{"both keys work together and by in", "shop", "workload=web,horizon in (1m),quantile==0.99", t0, []string{"web=240"}},
		{"time passes and the peak moves along", "shop", "workload=web", t0.Add(3 * time.Minute), []string{"web=227"}},
		{"another namespace's series stays hidden", "shop", "workload=report", t0, []string{}},
		{"naming another namespace opens nothing", "shop", "namespace=batch", t0, []string{}},
		{"an unknown namespace is empty", "nowhere", "", t0, []string{}},
		{"a star is no namespace", "*", "", t0, []string{}},
		{"without a namespace, only series of none", "", "", t0, []string{"orders=524"}},
		{"series without a namespace are handed out to nobody", "shop", "!namespace", t0, []string{}},
		{"a selector that matches nothing is empty", "shop", "workload=none", t0, []string{}},
		{"a stale forecast is silent", "shop", "", t0.Add(6 * time.Minute), []string{}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := newTestProvider(t, testStore(), test.now)
			list, err := p.GetExternalMetric(t.Context(), test.namespace, selector(t, test.selector), cpu)
			if err != nil {
				t.Fatal(err)
			}
			if list.Items == nil {
				t.Error("items are nil, want a list that may be empty")
			}
			if diff := cmp.Diff(test.want, valuesOf(list)); diff != "" {
				t.Errorf("values (-want +got):\n%s", diff)
			}
		})
	}
}

func TestProviderItemCarriesLabelsAndOrigin(t *testing.T) {
	p := newTestProvider(t, testStore(), t0.Add(90*time.Second))
	list, err := p.GetExternalMetric(t.Context(), "shop", selector(t, "workload=web,horizon=3m,quantile=0.5"), cpu)
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 1 {
		t.Fatalf("%d items, want 1", len(list.Items))
	}
	item := list.Items[0]
	if item.MetricName != "predicted_cpu_cores" || !item.Timestamp.Time.Equal(t0) || item.WindowSeconds != nil {
		t.Errorf("item = %v at %v, want predicted_cpu_cores at its origin %v", item.MetricName, item.Timestamp, t0)
	}
	want := map[string]string{"namespace": "shop", "workload": "web", "workload_kind": "Deployment"}
	if diff := cmp.Diff(want, item.MetricLabels); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
}

func TestProviderRefuses(t *testing.T) {
	tests := []struct {
		name, metric, selector, want string
		is                           func(error) bool
	}{
		{"an unknown metric", "nosuch", "", "the server could not find the metric nosuch for metrics.external.metrics.k8s.io", apierrors.IsNotFound},
		{"a horizon that is no duration", "predicted_cpu_cores", "horizon=soon", `horizon "soon" is no duration; want one such as "5m", at most the rule's 12m`, apierrors.IsBadRequest},
		{"a horizon beyond the rule's", "predicted_cpu_cores", "horizon=1h", `horizon "1h" is out of range; predicted_cpu_cores reaches 12m`, apierrors.IsBadRequest},
		{"a quantile that is none", "predicted_cpu_cores", "quantile=1.5", `quantile "1.5" is out of range; want a number from 0.1 to 0.99`, apierrors.IsBadRequest},
		{"a quantile that is not a number", "predicted_cpu_cores", "quantile=NaN", `quantile "NaN" is out of range; want a number from 0.1 to 0.99`, apierrors.IsBadRequest},
		{"an operator that names no value", "predicted_cpu_cores", "horizon", `"horizon" chooses the view of a forecast and takes one value, such as "horizon=5m"; got "horizon"`, apierrors.IsBadRequest},
		{"an inequality", "predicted_cpu_cores", "quantile!=0.5", `"quantile" chooses the view of a forecast and takes one value, such as "quantile=0.95"; got "quantile!=0.5"`, apierrors.IsBadRequest},
		{"two values", "predicted_cpu_cores", "horizon in (1m,2m)", `"horizon" chooses the view of a forecast and takes one value, such as "horizon=5m"; got "horizon in (1m,2m)"`, apierrors.IsBadRequest},
		{"an empty value", "predicted_cpu_cores", "horizon=", `"horizon" chooses the view of a forecast and takes one value, such as "horizon=5m"; got "horizon="`, apierrors.IsBadRequest},
		{"a key twice", "predicted_cpu_cores", "horizon=1m,horizon=2m", `"horizon" is given twice, as "1m" and "2m"; want it once`, apierrors.IsBadRequest},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := newTestProvider(t, testStore(), t0)
			_, err := p.GetExternalMetric(t.Context(), "shop", selector(t, test.selector), provider.ExternalMetricInfo{Metric: test.metric})
			if err == nil || !test.is(err) || err.Error() != test.want {
				t.Errorf("error = %v\nwant    %s", err, test.want)
			}
		})
	}
}

func TestProviderTakesAnySelectorAndSpelling(t *testing.T) {
	p := newTestProvider(t, testStore(), t0)
	list, err := p.GetExternalMetric(t.Context(), "shop", nil, provider.ExternalMetricInfo{Metric: "Predicted_CPU_Cores"})
	if err != nil || len(list.Items) != 2 {
		t.Errorf("nil selector, mixed case = %v, %v; want 2 items", list, err)
	}
	list, err = p.GetExternalMetric(t.Context(), "shop", labels.Nothing(), cpu)
	if err != nil || list.Items == nil || len(list.Items) != 0 {
		t.Errorf("selector that matches nothing = %v, %v; want an empty list", list, err)
	}
}

func TestProviderServesContainersToTheVPA(t *testing.T) {
	store := new(forecaster.Store)
	store.SetRules([]forecaster.Rule{testRule("predicted_container_cpu_cores")})
	store.Put("predicted_container_cpu_cores", []forecaster.Forecast{
		testForecast(1, model.Metric{"__name__": "x", "namespace": "shop", "pod": "web-1", "container": "app", "quantile": "0.3"}),
		testForecast(2, model.Metric{"namespace": "shop", "pod": "web-1", "container": "proxy", "name": "own"}),
		testForecast(3, model.Metric{"namespace": "shop", "pod": "web-2", "container": "app"}),
	})
	p := newTestProvider(t, store, t0)
	info := provider.ExternalMetricInfo{Metric: "predicted_container_cpu_cores"}
	labelsOf := func(sel string) []map[string]string {
		list, err := p.GetExternalMetric(t.Context(), "shop", selector(t, sel), info)
		if err != nil {
			t.Fatal(err)
		}
		var out []map[string]string
		for _, item := range list.Items {
			out = append(out, item.MetricLabels)
		}
		return out
	}
	first := map[string]string{"namespace": "shop", "pod": "web-1", "container": "app", "name": "app", "exported_quantile": "0.3"}
	second := map[string]string{"namespace": "shop", "pod": "web-1", "container": "proxy", "name": "own"}
	if diff := cmp.Diff([]map[string]string{first, second}, labelsOf("pod=web-1")); diff != "" {
		t.Errorf("of a pod (-want +got):\n%s", diff)
	}
	for _, sel := range []string{"name=app,pod=web-1", "exported_quantile=0.3", "exported_quantile", "name=app,pod!=web-2", "!exported_horizon,exported_quantile,quantile=0.5"} {
		if diff := cmp.Diff([]map[string]string{first}, labelsOf(sel)); diff != "" {
			t.Errorf("by %s (-want +got):\n%s", sel, diff)
		}
	}
}

func TestProviderFollowsTheStore(t *testing.T) {
	store := testStore()
	p := newTestProvider(t, store, t0)
	get := func() []string {
		list, err := p.GetExternalMetric(t.Context(), "shop", labels.Everything(), cpu)
		if err != nil {
			return []string{err.Error()}
		}
		return valuesOf(list)
	}
	steps := []struct {
		name string
		do   func()
		want []string
	}{
		{"as filled", func() {}, []string{"api=124", "web=224"}},
		{"asked again", func() {}, []string{"api=124", "web=224"}},
		{"a tick replaces the forecasts", func() {
			store.Put("predicted_cpu_cores", []forecaster.Forecast{testForecast(1, workload("shop", "new"))})
		}, []string{"new=25"}},
		{"a tick without forecasts", func() { store.Put("predicted_cpu_cores", nil) }, []string{}},
		{
			"a reload drops the rule", func() { store.SetRules([]forecaster.Rule{testRule("other")}) },
			[]string{"the server could not find the metric predicted_cpu_cores for metrics.external.metrics.k8s.io"},
		},
	}
	for _, step := range steps {
		step.do()
		if diff := cmp.Diff(step.want, get()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.name, diff)
		}
	}
	if _, err := p.GetExternalMetric(t.Context(), "shop", nil, provider.ExternalMetricInfo{Metric: "other"}); err != nil {
		t.Fatal(err)
	}
	if _, kept := p.loadIndexes()["predicted_cpu_cores"]; kept {
		t.Error("the forecasts of a dropped rule are still held")
	}
}

func TestProviderAndCollectorSeeWholeTicks(t *testing.T) {
	store := manyStore(200)
	p, c := newTestProvider(t, store, t0), newTestCollector(t, store, t0)
	var writers, readers sync.WaitGroup
	stop := make(chan struct{})
	writers.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			// Every tick holds series of one workload's name only.
			fs := make([]forecaster.Forecast, 1+n%5)
			for i := range fs {
				fs[i] = testForecast(1, model.Metric{"namespace": "shop", "workload": model.LabelValue(strconv.Itoa(n)), "i": model.LabelValue(strconv.Itoa(i))})
			}
			store.Put("predicted_cpu_cores", fs)
		}
	})
	for range 4 {
		readers.Go(func() {
			for range 500 {
				list, err := p.GetExternalMetric(t.Context(), "shop", labels.Everything(), cpu)
				if err != nil {
					t.Error(err)
					return
				}
				for _, item := range list.Items {
					if got, want := item.MetricLabels["workload"], list.Items[0].MetricLabels["workload"]; got != want {
						t.Errorf("items of the ticks %s and %s in one answer", want, got)
					}
				}
			}
		})
	}
	readers.Go(func() {
		for range 50 {
			testutil.CollectAndCount(c)
		}
	})
	readers.Wait()
	close(stop)
	writers.Wait()
}

func TestProviderNeverFallsBelowTheObserved(t *testing.T) {
	store := testStore()
	f := testForecast(1, workload("shop", "busy"))
	f.Observed = 1000
	store.Put("predicted_cpu_cores", []forecaster.Forecast{f})
	list, err := newTestProvider(t, store, t0).GetExternalMetric(t.Context(), "shop", nil, cpu)
	if err != nil || len(list.Items) != 1 || list.Items[0].Value.MilliValue() != 1_000_000 {
		t.Errorf("value = %v, %v; want the observed 1k", list, err)
	}
}

func TestListIsSortedAndNeverEmpty(t *testing.T) {
	want := []provider.ExternalMetricInfo{{Metric: "predicted_cpu_cores"}, {Metric: "predicted_memory_bytes"}}
	if diff := cmp.Diff(want, newTestProvider(t, testStore(), t0).ListAllExternalMetrics()); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
	p := newTestProvider(t, new(forecaster.Store), t0)
	list := p.ListAllExternalMetrics()
	if len(list) != 1 {
		t.Fatalf("without rules = %v, want the placeholder", list)
	}
	if _, err := p.GetExternalMetric(t.Context(), "shop", nil, list[0]); !apierrors.IsNotFound(err) {
		t.Errorf("placeholder = %v, want not found", err)
	}
}

func TestQuantityKeepsWhatMatters(t *testing.T) {
	tests := []struct {
		name string
		v    float64
		want string
		ok   bool
	}{
		{"zero", 0, "0", true},
		{"a tenth of a milli rounds down", 0.0001, "0", true},
		{"half a milli rounds up", 0.0005, "1m", true},
		{"a fraction is not truncated", 1.9996, "2", true},
		{"three decimals stay", 0.123456, "123m", true},
		{"a byte count", 123456789.25, "123456789250m", true},
		{"64 TiB and a byte", 64<<40 + 1, "70368744177665", true},
		{"8 PiB and more, in whole units", 1 << 60, "1152921504606846976", true},
		{"2^63 does not fit", 1 << 63, "", false},
		{"not a number", math.NaN(), "", false},
		{"infinity", math.Inf(1), "", false},
		{"negative", -0.001, "", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			q, ok := quantity(test.v)
			if ok != test.ok || ok && q.String() != test.want {
				t.Errorf("quantity(%v) = %s, %v; want %s, %v", test.v, q.String(), ok, test.want, test.ok)
			}
			if text, err := json.Marshal(q); ok && (err != nil || string(text) != `"`+test.want+`"`) {
				t.Errorf("JSON = %s, %v", text, err)
			}
		})
	}
}

func TestHugeValueIsSilent(t *testing.T) {
	store := testStore()
	store.Put("predicted_cpu_cores", []forecaster.Forecast{testForecast(1e19, workload("shop", "huge"))})
	list, err := newTestProvider(t, store, t0).GetExternalMetric(t.Context(), "shop", nil, cpu)
	if err != nil || len(list.Items) != 0 {
		t.Errorf("list = %v, %v; want it empty", list, err)
	}
}

func TestProviderNeedsAStore(t *testing.T) {
	if _, err := NewProvider(ProviderOptions{}); err == nil {
		t.Error("a provider without a store was made")
	}
}

func BenchmarkProviderGet(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprintf("workloads=%d", n), func(b *testing.B) {
			p := newTestProvider(b, manyStore(n), t0)
			sel := selector(b, "workload=app-00042,quantile=0.95")
			b.ReportAllocs()
			for b.Loop() {
				list, err := p.GetExternalMetric(b.Context(), "ns-000", sel, cpu)
				if err != nil || len(list.Items) != 1 {
					b.Fatalf("got %v, %v; want one item", list, err)
				}
			}
		})
	}
}
