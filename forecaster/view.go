package forecaster

import (
	"fmt"
	"strconv"
	"time"

	"github.com/prometheus/common/model"
)

// The names in a selector that choose the view of a forecast instead of a
// series.
const (
	HorizonKey  = "horizon"
	QuantileKey = "quantile"
)

// View is how a forecast is boiled down to one number: the peak of a quantile
// until a horizon, which is counted from now.
type View struct {
	Horizon time.Duration
	Level   float64
}

// ParseView returns the view that horizon (a duration such as "5m") and
// quantile (such as "0.95") ask of the rule. An empty string means the rule's
// own lead or level. The error says what was wrong and what would be right.
func (r Rule) ParseView(horizon, quantile string) (View, error) {
	v := r.DefaultView()
	if horizon != "" {
		d, err := model.ParseDuration(horizon)
		if err != nil {
			return v, fmt.Errorf("%s %q is no duration; want one such as \"5m\", at most the rule's %s", HorizonKey, horizon, model.Duration(r.Horizon))
		}
		v.Horizon = time.Duration(d)
		if v.Horizon <= 0 || v.Horizon > r.Horizon {
			return v, fmt.Errorf("%s %q is out of range; %s reaches %s", HorizonKey, horizon, r.Metric, model.Duration(r.Horizon))
		}
	}
	if quantile != "" {
		level, err := strconv.ParseFloat(quantile, 64)
		lo, hi := levelRange()
		if err != nil || !(level >= lo && level <= hi) {
			return v, fmt.Errorf("%s %q is out of range; want a number from %v to %v", QuantileKey, quantile, lo, hi)
		}
		v.Level = level
	}
	return v, nil
}

func levelRange() (lo, hi float64) {
	ls := Levels()
	return ls[0], ls[len(ls)-1]
}

// Fresh reports whether f may still be served at now: its origin is not older
// than the rule's MaxAge and the forecast is not over.
func (r Rule) Fresh(f Forecast, now time.Time) bool {
	return now.Sub(f.Origin) <= r.MaxAge && now.Before(f.End())
}

// Value returns the number that is served of f at now, the same through every
// door: the peak of the view's quantile from now until the view's horizon (or
// the end of the forecast, should that come first), not below zero, and not
// below the newest sample when the rule's floor says so. It reports false when
// f is not fresh.
func (r Rule) Value(f Forecast, v View, now time.Time) (float64, bool) {
	if !r.Fresh(f, now) {
		return 0, false
	}
	from, to := now, now.Add(v.Horizon)
	if from.Before(f.Origin) {
		from = f.Origin // A clock that is behind Prometheus' must not silence the forecast.
	}
	if to.After(f.End()) {
		to = f.End()
	}
	peak, ok := f.Peak(v.Level, from, to)
	if !ok {
		return 0, false
	}
	if r.Floor == FloorObserved {
		peak = max(peak, f.Observed)
	}
	return max(peak, 0), true
}
