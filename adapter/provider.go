package adapter

import (
	"context"
	"errors"
	"maps"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/metrics/pkg/apis/external_metrics"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/provider"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/provider/defaults"

	"github.com/kubeforecaster/kubeforecaster/forecaster"
)

// ProviderOptions are what a Provider is made of.
type ProviderOptions struct {
	Store *forecaster.Store // required
	Now   func() time.Time  // time.Now when nil
}

// Provider answers the external metrics API out of a forecaster.Store. It is
// safe for concurrent use and never waits for anything but memory.
type Provider struct {
	store *forecaster.Store
	now   func() time.Time

	build   sync.Mutex // one builder at a time copies the map
	indexes atomic.Pointer[map[string]index]
}

var _ provider.ExternalMetricsProvider = (*Provider)(nil)

// NewProvider returns a provider that reads o.Store.
func NewProvider(o ProviderOptions) (*Provider, error) {
	if o.Store == nil {
		return nil, errors.New("external metrics provider: no store")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Provider{store: o.Store, now: o.Now}, nil
}

// GetExternalMetric returns one value for every series of the metric in the
// namespace that the selector matches: the peak expected until the horizon, at
// the quantile, both of which the selector may name (horizon=15m,
// quantile=0.95) and which are otherwise the lead and the level of the rule.
//
// A series belongs to the namespace that its label "namespace" names. A series
// without that label belongs to none and is not handed out, so that who may read
// one namespace reads no totals of others.
//
// Forecasts that are too old are left out. A known metric with nothing to serve
// gives an empty list, an unknown one a not-found error, and a view that the
// rule does not reach a bad-request error. The list belongs to the caller.
func (p *Provider) GetExternalMetric(_ context.Context, namespace string, sel labels.Selector,
	info provider.ExternalMetricInfo,
) (*external_metrics.ExternalMetricValueList, error) {
	metric := strings.ToLower(info.Metric)
	snapshot, ok := p.store.Snapshot(metric)
	if !ok {
		return nil, provider.NewMetricNotFoundError(external_metrics.Resource("metrics"), metric)
	}
	q, err := newQuery(sel)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	view, err := snapshot.Rule.ParseView(q.horizon, q.quantile)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	now := p.now()
	list := &external_metrics.ExternalMetricValueList{Items: []external_metrics.ExternalMetricValue{}}
	for _, i := range p.index(metric, snapshot.Forecasts)[namespace] {
		f := snapshot.Forecasts[i]
		if !q.matches(servedLabels(f.Labels)) {
			continue
		}
		if item, ok := externalValue(snapshot.Rule, f, view, now); ok {
			list.Items = append(list.Items, item)
		}
	}
	return list, nil
}

// ListAllExternalMetrics returns the metrics of all rules, ordered by name. The
// list is never empty: without any rule it holds the placeholder of the library,
// for which a request finds nothing, because discovery that lists no resource is
// taken for a broken API by kubectl and Helm.
func (p *Provider) ListAllExternalMetrics() []provider.ExternalMetricInfo {
	rules := p.store.Rules()
	if len(rules) == 0 {
		return defaults.DefaultExternalMetricsProvider{}.ListAllExternalMetrics()
	}
	out := make([]provider.ExternalMetricInfo, len(rules))
	for i, r := range rules {
		out[i] = provider.ExternalMetricInfo{Metric: r.Metric}
	}
	return out
}

func externalValue(r forecaster.Rule, f forecaster.Forecast, v forecaster.View, now time.Time) (external_metrics.ExternalMetricValue, bool) {
	value, ok := r.Value(f, v, now)
	if !ok {
		return external_metrics.ExternalMetricValue{}, false
	}
	q, ok := quantity(value)
	if !ok {
		return external_metrics.ExternalMetricValue{}, false
	}
	return external_metrics.ExternalMetricValue{
		MetricName:   r.Metric,
		MetricLabels: servedLabels(f.Labels).Map(),
		Timestamp:    metav1.NewTime(f.Origin),
		Value:        q,
	}, true
}

// quantity rounds v to three decimals, the most that a quantity carries. Values
// whose milli part does not fit 64 bits (8 PiB and more) are rounded to whole
// units. It reports false for what no quantity can tell: a silent series is
// safe, a wrong number is not.
func quantity(v float64) (resource.Quantity, bool) {
	const limit = float64(math.MaxInt64) // 2^63, the first value that does not fit.
	switch {
	case math.IsNaN(v) || v < 0 || v >= limit:
		return resource.Quantity{}, false
	case math.Round(v*1000) < limit:
		return *resource.NewMilliQuantity(int64(math.Round(v*1000)), resource.DecimalSI), true
	default:
		return *resource.NewQuantity(int64(v), resource.DecimalSI), true
	}
}

// index holds, by namespace, the positions of forecasts in the slice it was made
// of. It spares a request the walk over all series of a cluster.
type index struct {
	of          []forecaster.Forecast
	byNamespace map[string][]int
}

// index returns the positions of fs by namespace. They are found once for every
// slice the store holds, which changes at every tick and never in place.
func (p *Provider) index(metric string, fs []forecaster.Forecast) map[string][]int {
	if i, ok := p.loadIndexes()[metric]; ok && sameSlice(i.of, fs) {
		return i.byNamespace
	}
	made := index{of: fs, byNamespace: make(map[string][]int)}
	for i, f := range fs {
		namespace := string(f.Labels[namespaceLabel])
		made.byNamespace[namespace] = append(made.byNamespace[namespace], i)
	}
	p.keep(metric, made)
	return made.byNamespace
}

// keep stores an index and forgets those of metrics that are gone, so that
// their forecasts do not stay in memory.
func (p *Provider) keep(metric string, made index) {
	p.build.Lock()
	defer p.build.Unlock()
	next := maps.Clone(p.loadIndexes())
	if next == nil {
		next = make(map[string]index)
	}
	maps.DeleteFunc(next, func(m string, _ index) bool {
		_, known := p.store.Snapshot(m)
		return !known
	})
	next[metric] = made
	p.indexes.Store(&next)
}

func (p *Provider) loadIndexes() map[string]index {
	if m := p.indexes.Load(); m != nil {
		return *m
	}
	return nil
}

func sameSlice(a, b []forecaster.Forecast) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}
