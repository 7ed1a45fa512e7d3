package forecaster

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"time"
)

// Floor says what a served value may not fall below.
type Floor string

// The floors there are.
const (
	FloorObserved Floor = "observed" // the newest sample
	FloorNone     Floor = "none"     // nothing: the forecast alone is served
)

// Rule says what to forecast. It reads like a recording rule whose result lies
// in the future: every series Expr returns is forecast on its own, keeps its
// labels, and is served under the name Metric.
type Rule struct {
	Metric   string        // external metric name, such as predicted_cpu_cores
	Expr     string        // PromQL that returns an instant vector
	With     string        // metric of a rule whose series of equal labels is a second input; may be empty
	Step     time.Duration // spacing of the grid
	Lookback time.Duration // history that a forecast may be made from
	Horizon  time.Duration // how far a forecast is served; at most HorizonSteps steps
	Lead     time.Duration // how far ahead the served value looks unless a request says otherwise
	Level    float64       // the served quantile, such as 0.9, unless a request says otherwise
	MaxAge   time.Duration // a forecast whose origin is older is not served
	Floor    Floor
}

// Defaults of a rule; the horizon's is HorizonSteps steps.
const (
	DefaultStep     = time.Minute
	DefaultLookback = 25 * time.Hour // yesterday, as far as the horizon reaches
	DefaultLevel    = 0.9
	DefaultLead     = 5 * time.Minute // about what a pod needs until it is ready
	defaultMaxAge   = 5               // in steps
)

// Bounds of a rule.
const (
	MinStep     = 10 * time.Second
	MaxStep     = 15 * time.Minute
	MaxLookback = 31 * 24 * time.Hour
)

// WithDefaults returns the rule with defaults in place of zero values.
func (r Rule) WithDefaults() Rule {
	r.Step = cmp.Or(r.Step, DefaultStep)
	r.Lookback = cmp.Or(r.Lookback, DefaultLookback)
	r.Horizon = cmp.Or(r.Horizon, HorizonSteps*r.Step)
	r.MaxAge = cmp.Or(r.MaxAge, defaultMaxAge*r.Step)
	r.Lead = cmp.Or(r.Lead, max(r.Step, min(DefaultLead, r.Horizon, HorizonSteps*r.Step-r.MaxAge)))
	r.Level = cmp.Or(r.Level, DefaultLevel)
	r.Floor = cmp.Or(r.Floor, FloorObserved)
	return r
}

// metricName is what the external metrics API takes as one path segment; the
// client of the HPA lower-cases names.
var metricName = regexp.MustCompile(`^[a-z][a-z0-9_.-]{0,252}$`)

// Validate returns every fault of a rule that has its defaults, joined.
func (r Rule) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(metricName.MatchString(r.Metric), "metric: %q is no metric name; want lower case letters, digits, '_', '.' and '-', a letter first", r.Metric)
	check(r.Expr != "", "expr: missing; want PromQL that returns an instant vector")
	check(r.With != r.Metric || r.With == "", "with: %q is the rule itself; want the metric of another rule", r.With)
	check(r.Step >= MinStep && r.Step <= MaxStep, "step: %s is out of range; want %s to %s", r.Step, MinStep, MaxStep)
	check(r.Step%time.Second == 0, "step: %s is not in whole seconds", r.Step)
	if len(errs) > 0 {
		return errors.Join(errs...) // What follows is measured in steps.
	}
	end := HorizonSteps * r.Step
	check(r.Horizon >= r.Step && r.Horizon <= end && r.Horizon%r.Step == 0,
		"horizon: %s is out of range; want whole steps from %s to %s (%d steps)", r.Horizon, r.Step, end, HorizonSteps)
	check(r.Lookback >= 2*r.Step && r.Lookback <= MaxLookback, "lookback: %s is out of range; want %s to %s", r.Lookback, 2*r.Step, MaxLookback)
	check(r.Lead > 0 && r.Lead <= r.Horizon, "lead: %s is out of range; want more than 0 and at most the horizon, %s", r.Lead, r.Horizon)
	check(r.Level >= 0.1 && r.Level <= 0.99, "level: %v is out of range; want 0.1 to 0.99", r.Level)
	check(r.MaxAge >= r.Step && r.MaxAge < end, "max_age: %s is out of range; want at least a step, %s, and less than %d steps, %s", r.MaxAge, r.Step, HorizonSteps, end)
	check(r.Floor == FloorObserved || r.Floor == FloorNone, "floor: %q is unknown; want %q or %q", r.Floor, FloorObserved, FloorNone)
	check(r.MaxAge+r.Lead <= end,
		"max_age: %s and lead %s reach past the %d forecast steps, %s; an old forecast would not cover the lead time", r.MaxAge, r.Lead, HorizonSteps, end)
	return errors.Join(errs...)
}

// DefaultView is the view that a request gets when it names none.
func (r Rule) DefaultView() View { return View{Horizon: r.Lead, Level: r.Level} }
