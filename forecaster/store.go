package forecaster

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
)

// Store keeps the newest forecasts of every rule. Readers see one whole
// snapshot of a metric and never wait. The zero value is ready; it is safe for
// concurrent use.
type Store struct {
	write     sync.Mutex // one writer at a time copies the map
	snapshots atomic.Pointer[map[string]Snapshot]
}

// Snapshot is what the store holds of one metric. It does not change.
type Snapshot struct {
	Rule      Rule
	Forecasts []Forecast // ordered by labels; may hold expired ones
}

// SetRules makes rules the known metrics. Forecasts of metrics that stay are
// kept, those of metrics that are gone are dropped.
func (s *Store) SetRules(rules []Rule) {
	s.write.Lock()
	defer s.write.Unlock()
	old, next := s.load(), make(map[string]Snapshot, len(rules))
	for _, r := range rules {
		snap := Snapshot{Rule: r}
		if was := old[r.Metric]; was.Rule.Expr == r.Expr && was.Rule.Step == r.Step {
			snap.Forecasts = was.Forecasts
		}
		next[r.Metric] = snap
	}
	s.snapshots.Store(&next)
}

// Put replaces all forecasts of metric at once and keeps fs. It does nothing
// when the metric is unknown, as after a reload that dropped it.
func (s *Store) Put(metric string, fs []Forecast) {
	s.write.Lock()
	defer s.write.Unlock()
	snap, ok := s.load()[metric]
	if !ok {
		return
	}
	next := maps.Clone(s.load())
	snap.Forecasts = fs
	next[metric] = snap
	s.snapshots.Store(&next)
}

// Snapshot returns the rule and the newest forecasts of metric, and whether the
// metric is known.
func (s *Store) Snapshot(metric string) (Snapshot, bool) {
	snap, ok := s.load()[metric]
	return snap, ok
}

// Rules returns the rules of all known metrics, ordered by metric.
func (s *Store) Rules() []Rule {
	var out []Rule
	for _, snap := range s.load() {
		out = append(out, snap.Rule)
	}
	slices.SortFunc(out, func(a, b Rule) int { return cmp.Compare(a.Metric, b.Metric) })
	return out
}

func (s *Store) load() map[string]Snapshot {
	if p := s.snapshots.Load(); p != nil {
		return *p
	}
	return nil
}
