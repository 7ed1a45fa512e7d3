package adapter

import (
	"fmt"
	"slices"
	"strings"

	"github.com/prometheus/common/model"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"

	"github.com/kubeforecaster/kubeforecaster/forecaster"
)

const (
	namespaceLabel = "namespace"
	workloadLabel  = "workload"
	containerLabel = "container"
	nameLabel      = "name" // where the VPA recommender looks for the container by default
	exported       = "exported_"
)

// servedLabels are the labels of a series as a client sees and selects them:
//
//   - the metric name is left out,
//   - a label that has the name of a reserved key is called exported_horizon or
//     exported_quantile, since the key chooses the view of a forecast,
//   - a series of a container carries its name as "name" too, unless it has such
//     a label of its own.
//
// It implements labels.Labels without copying.
type servedLabels model.Metric

// Lookup returns the value of a label and whether the series has it. An empty
// value is no label, as in Prometheus.
func (s servedLabels) Lookup(key string) (string, bool) {
	if v := s[model.LabelName(key)]; v != "" && !hidden(key) {
		return string(v), true
	}
	if key == nameLabel {
		v := s[containerLabel]
		return string(v), v != ""
	}
	if base, ok := strings.CutPrefix(key, exported); ok && reserved(base) {
		v := s[model.LabelName(base)]
		return string(v), v != ""
	}
	return "", false
}

// Has reports whether the series has a label.
func (s servedLabels) Has(key string) bool {
	_, ok := s.Lookup(key)
	return ok
}

// Get returns the value of a label, or an empty string.
func (s servedLabels) Get(key string) string {
	v, _ := s.Lookup(key)
	return v
}

// Map returns a copy of all labels.
func (s servedLabels) Map() map[string]string {
	out := make(map[string]string, len(s)+1)
	for name := range s {
		key := string(name)
		if reserved(key) {
			key = exported + key
		}
		if v, ok := s.Lookup(key); ok {
			out[key] = v
		}
	}
	if v, ok := s.Lookup(nameLabel); ok {
		out[nameLabel] = v
	}
	return out
}

func reserved(key string) bool { return key == forecaster.HorizonKey || key == forecaster.QuantileKey }

func hidden(key string) bool { return reserved(key) || key == model.MetricNameLabel }

// query is a selector taken apart: the view it asks for, as text, and what the
// labels of a series must fulfil.
type query struct {
	horizon, quantile string
	requirements      []labels.Requirement
	nothing           bool // matches no series whatever
}

// newQuery takes the reserved keys out of a selector. The error says what was
// wrong with them and what would be right.
func newQuery(sel labels.Selector) (query, error) {
	if sel == nil {
		return query{}, nil
	}
	requirements, selectable := sel.Requirements()
	q := query{nothing: !selectable}
	for _, r := range requirements {
		if !reserved(r.Key()) {
			q.requirements = append(q.requirements, r)
			continue
		}
		into := &q.horizon
		if r.Key() == forecaster.QuantileKey {
			into = &q.quantile
		}
		if err := setReserved(into, r); err != nil {
			return query{}, err
		}
	}
	return q, nil
}

func setReserved(into *string, r labels.Requirement) error {
	example := map[string]string{forecaster.HorizonKey: "horizon=5m", forecaster.QuantileKey: "quantile=0.95"}[r.Key()]
	values := r.ValuesUnsorted()
	equality := slices.Contains([]selection.Operator{selection.Equals, selection.DoubleEquals, selection.In}, r.Operator())
	if !equality || len(values) != 1 || values[0] == "" {
		return fmt.Errorf("%q chooses the view of a forecast and takes one value, such as %q; got %q", r.Key(), example, r.String())
	}
	if *into != "" && *into != values[0] {
		return fmt.Errorf("%q is given twice, as %q and %q; want it once", r.Key(), *into, values[0])
	}
	*into = values[0]
	return nil
}

// matches reports whether a series has what the selector asks of its labels.
func (q query) matches(ls servedLabels) bool {
	if q.nothing {
		return false
	}
	for i := range q.requirements {
		if !q.requirements[i].Matches(ls) {
			return false
		}
	}
	return true
}
