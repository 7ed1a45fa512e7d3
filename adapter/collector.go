package adapter

import (
	"cmp"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/model"

	"github.com/kubeforecaster/kubeforecaster/forecaster"
)

const metricLabel = "metric"

// CollectorOptions are what a Collector is made of.
type CollectorOptions struct {
	Store *forecaster.Store // required
	Now   func() time.Time  // time.Now when nil
}

// Collector exports the forecasts of a forecaster.Store as series, so that
// PromQL users read the same numbers as autoscalers:
//
//	kubeforecaster_forecast{metric, <labels of the series>, horizon, quantile}
//
// For every fresh forecast there are the horizons lead and horizon of its rule
// and the quantiles 0.5, the rule's level and 0.95. Stale forecasts are absent.
// A label of a series that is called metric, horizon or quantile gets the prefix
// exported_, and characters that Prometheus' classic label names do not have
// become underscores.
//
// For every rule there are also
//
//	kubeforecaster_forecast_series{metric}                   fresh forecasts
//	kubeforecaster_forecast_stale_series{metric}             forecasts too old to be served
//	kubeforecaster_forecast_duplicate_series{metric}         fresh ones left out here, as another has the same labels
//	kubeforecaster_forecast_origin_timestamp_seconds{metric} newest origin, stale ones included
//
// It is safe for concurrent use. Its label sets depend on the data, so it is an
// unchecked collector; it sees to it itself that no two are equal.
type Collector struct {
	store *forecaster.Store
	now   func() time.Time

	forecast, series, stale, duplicate, origin *prometheus.Desc
}

// NewCollector returns a collector that reads o.Store.
func NewCollector(o CollectorOptions) (*Collector, error) {
	if o.Store == nil {
		return nil, errors.New("forecast collector: no store")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("kubeforecaster_forecast"+name, help, labels, nil)
	}
	return &Collector{
		store:     o.Store,
		now:       o.Now,
		forecast:  desc("", "Peak of the quantile that is expected from now until the horizon, in the unit of the metric."),
		series:    desc("_series", "Number of series with a fresh forecast.", metricLabel),
		stale:     desc("_stale_series", "Number of series whose forecast is too old to be served.", metricLabel),
		duplicate: desc("_duplicate_series", "Number of series with a fresh forecast that are not exported as series because another has the same labels.", metricLabel),
		origin:    desc("_origin_timestamp_seconds", "Time of the newest sample that a forecast was made from.", metricLabel),
	}, nil
}

// Describe sends nothing, which makes the collector an unchecked one.
func (c *Collector) Describe(chan<- *prometheus.Desc) {}

// Collect sends the forecasts of all rules as of now.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	now := c.now()
	for _, r := range c.store.Rules() {
		// A reload may have dropped the rule meanwhile.
		if snapshot, ok := c.store.Snapshot(r.Metric); ok {
			c.collect(ch, snapshot, now)
		}
	}
}

func (c *Collector) collect(ch chan<- prometheus.Metric, s forecaster.Snapshot, now time.Time) {
	var fresh, stale, duplicates int
	var newest time.Time
	views := exportedViews(s.Rule)
	seen := make(map[string]struct{}, len(s.Forecasts))
	for _, f := range s.Forecasts {
		if f.Origin.After(newest) {
			newest = f.Origin
		}
		if !s.Rule.Fresh(f, now) {
			stale++
			continue
		}
		fresh++
		pairs := exportedLabels(f.Labels)
		key := labelKey(pairs)
		if _, ok := seen[key]; ok {
			duplicates++
			continue
		}
		seen[key] = struct{}{}
		for _, v := range views {
			if value, ok := s.Rule.Value(f, v.view, now); ok {
				ch <- &forecastMetric{desc: c.forecast, series: pairs, view: v.labels, value: value}
			}
		}
	}
	gauge := func(d *prometheus.Desc, v float64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, s.Rule.Metric)
	}
	gauge(c.series, float64(fresh))
	gauge(c.stale, float64(stale))
	gauge(c.duplicate, float64(duplicates))
	if !newest.IsZero() {
		gauge(c.origin, float64(newest.UnixMilli())/1000)
	}
}

// exportedView is a view and the labels that say which.
type exportedView struct {
	view   forecaster.View
	labels []*dto.LabelPair // horizon, metric, quantile
}

func exportedViews(r forecaster.Rule) []exportedView {
	var out []exportedView
	for _, horizon := range distinct(r.Lead, r.Horizon) {
		for _, level := range distinct(0.5, r.Level, 0.95) {
			out = append(out, exportedView{
				view: forecaster.View{Horizon: horizon, Level: level},
				labels: []*dto.LabelPair{
					pair(forecaster.HorizonKey, formatHorizon(horizon)),
					pair(metricLabel, r.Metric),
					pair(forecaster.QuantileKey, formatLevel(level)),
				},
			})
		}
	}
	return out
}

// exportedLabels are the labels of a series as Prometheus' classic exposition
// format takes them, ordered by name. Internal labels (two underscores first) are
// left out, and so is one whose name, once made valid, is taken by another.
func exportedLabels(m model.Metric) []*dto.LabelPair {
	names := make([]model.LabelName, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	out := make([]*dto.LabelPair, 0, len(names))
	add := func(name, value string) {
		taken := slices.ContainsFunc(out, func(p *dto.LabelPair) bool { return p.GetName() == name })
		if !taken && value != "" && !strings.HasPrefix(name, model.ReservedLabelPrefix) {
			out = append(out, pair(name, strings.ToValidUTF8(value, "\uFFFD")))
		}
	}
	// Names that stay as they are come first, and so win.
	for _, stays := range []bool{true, false} {
		for _, name := range names {
			if as := exportedName(string(name)); (as == string(name)) == stays {
				add(as, string(m[name]))
			}
		}
	}
	slices.SortFunc(out, compareNames)
	return out
}

func compareNames(a, b *dto.LabelPair) int { return cmp.Compare(a.GetName(), b.GetName()) }

// exportedName returns a name as Prometheus' classic label names are: letters,
// digits and underscores, no digit first, and none that this collector uses.
func exportedName(name string) string {
	if reserved(name) || name == metricLabel {
		return exported + name
	}
	if model.LegacyValidation.IsValidLabelName(name) {
		return name
	}
	name = strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' {
			return c
		}
		return '_'
	}, name)
	if name == "" || name[0] >= '0' && name[0] <= '9' {
		name = "_" + name
	}
	return name
}

// labelKey is the same for equal label sets only.
func labelKey(pairs []*dto.LabelPair) string {
	var b strings.Builder
	for _, p := range pairs {
		b.WriteString(p.GetName())
		b.WriteByte(0xff) // No part of a valid UTF-8 string.
		b.WriteString(p.GetValue())
		b.WriteByte(0xff)
	}
	return b.String()
}

// forecastMetric is one sample of kubeforecaster_forecast. It shares its label
// pairs with the other views of its series and with the other series of its
// view, which is what makes 10,000 series affordable.
type forecastMetric struct {
	desc         *prometheus.Desc
	series, view []*dto.LabelPair
	value        float64
}

// Desc gives the name and the help text.
func (m *forecastMetric) Desc() *prometheus.Desc { return m.desc }

// Write puts the sample into out.
func (m *forecastMetric) Write(out *dto.Metric) error {
	out.Label = slices.Concat(m.series, m.view)
	slices.SortFunc(out.Label, compareNames)
	out.Gauge = &dto.Gauge{Value: &m.value}
	return nil
}

func pair(name, value string) *dto.LabelPair { return &dto.LabelPair{Name: &name, Value: &value} }

func formatHorizon(d time.Duration) string { return model.Duration(d).String() }

func formatLevel(level float64) string { return strconv.FormatFloat(level, 'g', -1, 64) }

// distinct returns vs sorted, each once.
func distinct[T cmp.Ordered](vs ...T) []T {
	slices.Sort(vs)
	return slices.Compact(vs)
}
