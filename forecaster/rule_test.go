package forecaster_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kubeforecaster/kubeforecaster/forecaster"
)

func TestRuleDefaults(t *testing.T) {
	for _, tt := range []struct {
		name         string
		step         time.Duration
		horizon      time.Duration
		lead, maxAge time.Duration
	}{
		{"a minute reaches twelve, leads five", 0, 12 * time.Minute, 5 * time.Minute, 5 * time.Minute},
		{"five minutes reach an hour, lead five", 5 * time.Minute, time.Hour, 5 * time.Minute, 25 * time.Minute},
		{"ten seconds lead what an old forecast covers", 10 * time.Second, 2 * time.Minute, 70 * time.Second, 50 * time.Second},
		{"fifteen minutes lead one step", 15 * time.Minute, 3 * time.Hour, 15 * time.Minute, 75 * time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := forecaster.Rule{Metric: "m", Expr: "x", Step: tt.step}.WithDefaults()
			if r.Horizon != tt.horizon || r.Lead != tt.lead || r.MaxAge != tt.maxAge || r.Level != 0.9 || r.Floor != forecaster.FloorObserved {
				t.Errorf("defaults are %+v; want horizon %s, lead %s, max age %s, level 0.9, floor observed", r, tt.horizon, tt.lead, tt.maxAge)
			}
			if err := r.Validate(); err != nil {
				t.Errorf("a rule of defaults is refused: %v", err)
			}
		})
	}
}

func TestRuleFaultsSayWhatWouldBeRight(t *testing.T) {
	for _, tt := range []struct {
		want  string
		spoil func(*forecaster.Rule)
	}{
		{`metric: "Cpu" is no metric name`, func(r *forecaster.Rule) { r.Metric = "Cpu" }},
		{`expr: missing`, func(r *forecaster.Rule) { r.Expr = "" }},
		{`with: "m" is the rule itself`, func(r *forecaster.Rule) { r.With = "m" }},
		{`step: 1s is out of range; want 10s to 15m0s`, func(r *forecaster.Rule) { r.Step = time.Second }},
		{`step: 10.5s is not in whole seconds`, func(r *forecaster.Rule) { r.Step = 10500 * time.Millisecond }},
		{`horizon: 13m0s is out of range; want whole steps from 1m0s to 12m0s (12 steps)`, func(r *forecaster.Rule) { r.Horizon = 13 * time.Minute }},
		{`horizon: 1m30s is out of range`, func(r *forecaster.Rule) { r.Horizon = 90 * time.Second }},
		{`lookback: 1m0s is out of range`, func(r *forecaster.Rule) { r.Lookback = time.Minute }},
		{`lead: 9m0s is out of range; want more than 0 and at most the horizon, 8m0s`, func(r *forecaster.Rule) { r.Horizon, r.Lead = 8*time.Minute, 9*time.Minute }},
		{`level: 0.999 is out of range; want 0.1 to 0.99`, func(r *forecaster.Rule) { r.Level = 0.999 }},
		{`max_age: 12m0s is out of range`, func(r *forecaster.Rule) { r.MaxAge = 12 * time.Minute }},
		{`floor: "zero" is unknown; want "observed" or "none"`, func(r *forecaster.Rule) { r.Floor = "zero" }},
		{`max_age: 8m0s and lead 5m0s reach past the 12 forecast steps`, func(r *forecaster.Rule) { r.MaxAge = 8 * time.Minute }},
	} {
		t.Run(tt.want, func(t *testing.T) {
			r := forecaster.Rule{Metric: "m", Expr: "x"}.WithDefaults()
			tt.spoil(&r)
			if err := r.Validate(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error is %v; want one with %q", err, tt.want)
			}
		})
	}
}

func TestParseView(t *testing.T) {
	rule := forecaster.Rule{Metric: "m", Expr: "x", Horizon: 10 * time.Minute}.WithDefaults()
	for _, tt := range []struct {
		horizon, quantile string
		want              forecaster.View
		err               string
	}{
		{"", "", forecaster.View{Horizon: 5 * time.Minute, Level: 0.9}, ""},
		{"10m", "0.5", forecaster.View{Horizon: 10 * time.Minute, Level: 0.5}, ""},
		{"90s", "", forecaster.View{Horizon: 90 * time.Second, Level: 0.9}, ""},
		{"11m", "", forecaster.View{}, `horizon "11m" is out of range; m reaches 10m`},
		{"0s", "", forecaster.View{}, `horizon "0s" is out of range`},
		{"soon", "", forecaster.View{}, `horizon "soon" is no duration; want one such as "5m", at most the rule's 10m`},
		{"", "high", forecaster.View{}, `quantile "high" is out of range; want a number from 0.1 to 0.99`},
		{"", "1", forecaster.View{}, `quantile "1" is out of range`},
		{"", "NaN", forecaster.View{}, `quantile "NaN" is out of range`},
	} {
		t.Run(tt.horizon+" "+tt.quantile, func(t *testing.T) {
			got, err := rule.ParseView(tt.horizon, tt.quantile)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error is %v; want one with %q", err, tt.err)
				}
				return
			}
			if diff := cmp.Diff(tt.want, got); err != nil || diff != "" {
				t.Errorf("error %v, view (-want +got):\n%s", err, diff)
			}
		})
	}
}
