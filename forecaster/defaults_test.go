package forecaster

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestDefaultRulesAreValidPairs(t *testing.T) {
	rules := DefaultRules()
	if err := CheckRules(rules); err != nil {
		t.Error(err)
	}
	got := map[string]string{}
	for _, r := range rules {
		got[r.Metric] = r.With
		if diff := cmp.Diff(r, r.WithDefaults()); diff != "" {
			t.Errorf("%s lacks defaults (-is +should be):\n%s", r.Metric, diff)
		}
	}
	want := map[string]string{
		"predicted_cpu_cores":              "predicted_memory_bytes",
		"predicted_memory_bytes":           "predicted_cpu_cores",
		"predicted_container_cpu_cores":    "predicted_container_memory_bytes",
		"predicted_container_memory_bytes": "predicted_container_cpu_cores",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pairs differ (-want +got):\n%s", diff)
	}
}

func TestDefaultRulesKeepTheLabelsTheyPromise(t *testing.T) {
	tests := map[string]struct {
		outermost string
		lookback  time.Duration
	}{
		"predicted_cpu_cores":              {"sum by (namespace, workload, workload_kind) (", 25 * time.Hour},
		"predicted_memory_bytes":           {"sum by (namespace, workload, workload_kind) (", 25 * time.Hour},
		"predicted_container_cpu_cores":    {"sum by (namespace, pod, container) (", 3 * time.Hour},
		"predicted_container_memory_bytes": {"max by (namespace, pod, container) (", 3 * time.Hour},
	}
	for _, r := range DefaultRules() {
		want := tests[r.Metric]
		if !strings.HasPrefix(r.Expr, want.outermost) {
			t.Errorf("%s begins with %.60q; want %q", r.Metric, r.Expr, want.outermost)
		}
		if r.Lookback != want.lookback {
			t.Errorf("%s looks back %s; want %s", r.Metric, r.Lookback, want.lookback)
		}
		if open, shut := strings.Count(r.Expr, "("), strings.Count(r.Expr, ")"); open != shut {
			t.Errorf("%s has %d opening and %d closing parentheses", r.Metric, open, shut)
		}
	}
}
